# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The word lists: English and Hindi (in both scripts), small words within names, keywords of code.

Knows words. Must not know texts, or what a word on a list is kept for.

Words are listed as `words.py` spells what it looks up: small letters, straight apostrophes, no joiners.
"""

from __future__ import annotations

from unicodedata import normalize


def _listed(*words: str) -> frozenset[str]:
    return frozenset(normalize("NFKC", word) for line in words for word in line.split())


NEGATIONS = _listed(
    "no not non none nobody nothing nowhere never neither nor cannot without hardly scarcely barely rarely",
    "seldom unless except lest minus instead nope nah nay lack lacks lacked lacking fail fails failed deny",
    "denies denied refuse refuses refused forbid forbids forbidden dont doesnt didnt isnt arent wasnt",
    "werent wont cant couldnt shouldnt wouldnt hasnt havent hadnt aint mustnt neednt नहीं नही नहि नहिं न ना",
    "मत बिना बगैर बग़ैर सिवा सिवाय मना nahi nahin nahee nahii naheen nhi nai mat na naa bina binaa bagair",
    "siva sivay siwa siway mana",
)
ANYBODY = _listed("कोई किसी कुछ कभी कहीं koi kisi kuch kuchh kabhi kahin kahi")
"""Hindi says nobody, nothing, never and nowhere with two words."""
NUMBERS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand",
    "million billion trillion lakh crore dozen ones twos tens hundreds thousands millions billions",
    "trillions lakhs crores dozens half halves quarter quarters third thirds fourths fifths twenties",
    "thirties forties fifties sixties seventies eighties nineties first second fourth fifth sixth seventh",
    "eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth",
    "nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth",
    "thousandth millionth billionth once twice thrice single double triple percent noon midnight today",
    "tonight tomorrow yesterday a.m p.m o'clock january february april june july august september october",
    "november december jan feb apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday",
    "friday saturday sunday शून्य एक दो तीन चार पांच पाँच छह छः छे सात आठ नौ दस ग्यारह बारह तेरह चौदह",
    "पंद्रह सोलह सत्रह अठारह उन्नीस बीस तीस चालीस पचास साठ सत्तर अस्सी नब्बे सौ हजार हज़ार लाख करोड़ अरब",
    "आधा आधी आधे पौन सवा डेढ़ ढाई पहला पहली पहले दूसरा दूसरी दूसरे तीसरा तीसरी तीसरे चौथा चौथी चौथे प्रतिशत",
    "फीसदी रुपये रुपए रुपया आज कल परसों",
)
UNITS = _listed(
    "per cent cents dollar dollars euro euros pound pounds rupee rupees yen yuan am pm bc ad bce ce degree",
    "degrees celsius fahrenheit nm mm cm m km inch inches foot feet yard yards mile miles mg g gram grams",
    "kg kilo kilos ton tons tonne tonnes ounce ounces oz lb lbs ml l litre litres liter liters ms s sec",
    "secs seconds min mins minute minutes h hr hrs hour hours day days night nights week weeks month months",
    "year years decade decades century centuries hz khz mhz ghz kb mb gb tb byte bytes bit bits w kw mw",
    "watt watts volt volts v mph kmh times point",
)
WITHIN = _listed("of the and for van von der den de del della di da do dos du la le los las al el bin ibn")
FUNCTION = _listed(
    "a an the this that these those i you he she it we they me him her us them my your his its our their",
    "mine yours hers ours theirs who whom whose which what when where why how if then else so as at by for",
    "from in into of off on onto out over to up with about above after again against all also although am",
    "among and any anyone anything are be because been before being below between both but can could did do",
    "does doing down during each either even ever every is everyone everything few had has have having here",
    "however just let like many more most much must now only or other perhaps same shall should since some",
    "somebody someone something sometimes still such than there therefore though through thus too under",
    "until upon very was were whatever whenever whether while within would yes yet",
)
KEYWORDS = _listed(
    "async await case catch class const create def delete echo elif else except export fn for func function",
    "if insert let print private public return select static switch try update var while with yield",
)
