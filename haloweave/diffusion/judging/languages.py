# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Which language a text is in, of four: English, Hindi, Hinglish (Hindi in Latin letters, English between),
or Devanagari and Latin mixed; and how much a text mixes them, the Code-Mixing Index.

By its letters, and where all are Latin by two short closed lists of words that hold sentences together: the
romanised Hindi ones are none of English's. Knows words and letters. Must not know files, tokens or models.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import regex

Language = Literal["english", "hindi", "hinglish", "mixed"]
LANGUAGES: tuple[Language, ...] = ("english", "hindi", "hinglish", "mixed")

PURE = 0.9
"""Share of a text's letters that one script has if the text is of that script."""
HINDI_SHARE = 0.05
"""Share of a Latin text's words that are romanised Hindi function words, at least, for it to be Hinglish.
Measured on 3,800 texts of 1,500 characters: English ones (books, speeches, dialogues, manuals) have at most
0.017, Hinglish ones (dialogues, manuals, Hindi romanised by rule) at least 0.104."""
ENGLISH_SHARE = 0.15
"""The same of English function words for English (the same texts: 0.167 to 0.629); French, German or a table
of names have fewer."""

WORD = regex.compile(r"[\p{L}\p{M}\u200c\u200d]+")
"""A word: letters, their marks, joiners."""
_DEVANAGARI, _LATIN = (
    regex.compile(rf"[\p{{{name}}}&&[\p{{L}}\p{{M}}]]+", regex.V1) for name in ("Devanagari", "Latin")
)
LETTER = regex.compile(r"[\p{L}\p{M}]+")
"""Letters and their marks, without joiners: what has a script."""

_ROMANISED = (
    "aaj aap aapka aapke aapki aapko aapne aapse aaya aaye aayega abhi accha acha achha agar aisa aise "
    "aisi aur baad baare bahut batao bataiye bataye bhi bilkul chahie chahiye chahta chahte chahti dena "
    "deta dete deti dijiye dikhao diya diye dono dusra dusre gaya gaye gayi haan hai hain hamara hamare "
    "hamari hamein hoga hoge hogi hona hone hota hote hoti hua hui humara humare humari humein iska iske "
    "iski isko isme ismein isne isse itna jaise jaisa jaisi jata jate jati jaata jaate jaati jitna jiska "
    "jiske jiski jisse jisme kab kabhi kahan kahin kaise kaisa kaisi kal karein karen kare kar karke "
    "karna karne karni karo karta karte karti karunga kaun kaunsa kaunse kaunsi ke ki kisi kitna kitne "
    "kitni kiya kiye koi kuch kya kyon kyu kyun kyunki lekin liya liye magar mein mera meri milega mila "
    "milta mujhe mujhko nahi nahin nahii nahee naa pata pehla pehle phir raha rahe rahi saath sabhi sabse "
    "sakta sakte sakti sath sirf tak tarah tha thi tumhara tumhare tumhari tumhe unka unke unki unko unhe "
    "usne uska uske uski usko usme usmein usse vah vaise vahan wahan wala wale wali waqt woh yaar yadi "
    "yah yahan yeh zyada jyada ek hu hoon ka ko se pe kuchh dekho dekhne gaana gaane jao jaaye jaye lagao "
    "lagane bajao bajaye bajane kahaan kripya saare saari thoda theek thik tumko unhone inhone inka inke "
    "inki inko"
)
ROMANISED = frozenset(_ROMANISED.split())
_ENGLISH = (
    "the of and to a in that is was he for it with as his on be at by i this had not are but from or have "
    "an they which one you were her all she there would their we him been has when who will more no if "
    "out so said what up its about into than them can only other new some could time these two may then "
    "do first any my now such like our over me even most made after also did many before must through "
    "your"
)
ENGLISH = frozenset(_ENGLISH.split())


def share_of_scripts(text: str) -> tuple[float, float]:
    """Of a text's letters and vowel signs, the shares that are Devanagari and Latin; zeros for none."""
    letters = _length(LETTER, text)
    if not letters:
        return 0.0, 0.0
    return _length(_DEVANAGARI, text) / letters, _length(_LATIN, text) / letters


def word_script(word: str) -> str | None:
    """devanagari, latin, or mixed for a word with letters or vowel signs of both; None: of neither."""
    hindi, latin = bool(_DEVANAGARI.search(word)), bool(_LATIN.search(word))
    return "mixed" if hindi and latin else "devanagari" if hindi else "latin" if latin else None


def word_language(word: str) -> str | None:
    """`hindi` or `english`, of one word: by script, and of Latin ones by the closed list. None: of another
    script, or letters of both in one word. Romanised Hindi beyond the list counts as English, so a text in
    Hinglish looks more mixed than it is; compare such numbers with those of other texts alone."""
    script = word_script(word)
    if script in (None, "mixed"):
        return None
    return "hindi" if script == "devanagari" or word.lower() in ROMANISED else "english"


def code_mixing(text: str) -> float:
    """The Code-Mixing Index, 0 to 100 (Das & Gambäck, ICON 2014): 100 (1 - w / (n - u)) of n words, w of them
    in the most frequent language, u in none. 0 where no word has a language."""
    counts = Counter(map(word_language, WORD.findall(text)))
    del counts[None]
    return 100 * (1 - max(counts.values()) / counts.total()) if counts else 0.0


def _length(runs: regex.Pattern[str], text: str) -> int:
    """Characters in all runs: ten times as fast as to find them one by one."""
    return sum(map(len, runs.findall(text)))


def language(text: str) -> Language | None:
    """The language of a text, or None: another, or too little of any to tell."""
    hindi, latin = share_of_scripts(text)
    if hindi >= PURE:
        return "hindi"
    if latin < PURE:
        return "mixed" if hindi + latin >= PURE and hindi and latin else None
    words = WORD.findall(text.lower())
    counts = Counter(words)
    if sum(counts[w] for w in ROMANISED) >= HINDI_SHARE * len(words):
        return "hinglish"
    return "english" if sum(counts[w] for w in ENGLISH) >= ENGLISH_SHARE * len(words) else None
