# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Fifty facts that somebody might mention once, and how they would ask for each much later. All invented.

Knows nothing else. An answer is a word or number that nothing around it tells. Questions share some words
with what was said, or few, or (`apart`) none that carries meaning: then only the sense leads there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """What was said, what is asked, and what has to be known to answer."""

    said: str
    asked: str
    answer: str
    apart: bool = False
    """The question shares no word of meaning with what was said."""


FACTS: tuple[Fact, ...] = (
    Fact("My sister Tamsin keeps bees in Lerwick.", "Where does my sister keep her bees?", "Lerwick"),
    Fact("The alarm code at the workshop is 4471.", "What is the alarm code of the workshop?", "4471"),
    Fact(
        "Our dog Biscuit is allergic to chicken.",
        "Which food makes our pet ill?",
        "Chicken",
        apart=True,
    ),
    Fact("I parked the car on level 7 of the garage.", "On which level did I park?", "7"),
    Fact("Dr Okonjo moved my appointment to 17 March.", "When is my appointment with Dr Okonjo?", "17 March"),
    Fact(
        "My grandmother was born in Tromsø.",
        "Which town does Granny come from?",
        "Tromsø",
        apart=True,
    ),
    Fact(
        "The wifi password of the cabin is marmalade88.",
        "How do I get into the wifi at the cabin?",
        "marmalade88",
    ),
    Fact(
        "Uncle Perrin sold his boat for 3,200 pounds.", "How much did Uncle Perrin get for the boat?", "3,200"
    ),
    Fact("I can only sleep with the window open.", "What do I need in order to sleep?", "the window open"),
    Fact(
        "My new colleague Ysolde comes from Paraguay.",
        "Which country did the woman who just joined my team grow up in?",
        "Paraguay",
        apart=True,
    ),
    Fact(
        "The spare key is under the blue flowerpot.",
        "Where did I put the spare key?",
        "under the blue flowerpot",
    ),
    Fact("My passport expires in October 2031.", "When does my passport expire?", "October 2031"),
    Fact(
        "Our daughter Wren plays the bassoon.",
        "What instrument did our girl learn?",
        "bassoon",
        apart=True,
    ),
    Fact("The red wine stain came out with soda water.", "What removed the wine stain?", "soda water"),
    Fact(
        "I promised Hollis to return the ladder on Sunday.",
        "When must I give Hollis the ladder back?",
        "Sunday",
    ),
    Fact("Our boiler was built by a firm called Vantorr.", "Who made our boiler?", "Vantorr"),
    Fact(
        "I am afraid of moths, ever since I was a child.",
        "Which insects scare me?",
        "moths",
        apart=True,
    ),
    Fact(
        "The train to Aldermoor leaves from platform 9.",
        "Which platform does the train to Aldermoor leave from?",
        "9",
    ),
    Fact(
        "My brother Casimir married a beekeeper named Odile.", "What is the name of Casimir's wife?", "Odile"
    ),
    Fact(
        "I wrote my thesis about the lungs of lizards.", "What was my thesis about?", "the lungs of lizards"
    ),
    Fact(
        "We named the kitten Pumpernickel.",
        "What do we call our little cat?",
        "Pumpernickel",
        apart=True,
    ),
    Fact("The landlord wants the rent by the 5th of each month.", "By which day is the rent due?", "the 5th"),
    Fact("My blood group is AB negative.", "Which blood group do I have?", "AB negative"),
    Fact(
        "The recipe of my aunt needs two spoons of cardamom.",
        "Which spice goes into my aunt's recipe?",
        "cardamom",
    ),
    Fact(
        "I get seasick on any vessel, so I never take the ferry.",
        "Why do I avoid travelling by ship?",
        "seasick",
        apart=True,
    ),
    Fact(
        "Our flight to Reykjavik has the number FJ 382.",
        "What is the number of our flight to Reykjavik?",
        "FJ 382",
    ),
    Fact(
        "My favourite novel is The Lantern of Ostrava.",
        "Which novel do I like best?",
        "The Lantern of Ostrava",
    ),
    Fact("The plumber, Mr Quillfeather, comes on Tuesday at noon.", "When is the plumber coming?", "Tuesday"),
    Fact(
        "I quit my job at the bank to become a gardener.",
        "What do I do for a living these days?",
        "gardener",
        apart=True,
    ),
    Fact("The library fined me 12 euros for a lost atlas.", "What did I pay the library?", "12 euros"),
    Fact("My bicycle was stolen in Ghent last spring.", "In which city was my bicycle stolen?", "Ghent"),
    Fact(
        "The cellar floods whenever the river passes 410 centimetres.",
        "At what height of the river does the cellar flood?",
        "410",
    ),
    Fact(
        "My son Florian broke his left wrist at judo.",
        "Which sport did my boy get injured in?",
        "judo",
        apart=True,
    ),
    Fact("We painted the nursery in a colour called seafoam.", "What colour is the nursery?", "seafoam"),
    Fact(
        "The old oak behind the school was planted in 1874.",
        "How old is the oak at the school, when was it planted?",
        "1874",
    ),
    Fact("My locker at the gym is number 238.", "What number is my gym locker?", "238"),
    Fact(
        "I have been learning Welsh for three years.",
        "Which foreign tongue am I studying?",
        "Welsh",
        apart=True,
    ),
    Fact(
        "The best man at our wedding was called Ambrose.", "Who was the best man at our wedding?", "Ambrose"
    ),
    Fact("My glasses have a strength of minus 4.25.", "What strength are my glasses?", "minus 4.25"),
    Fact(
        "The neighbours have a parrot that swears in Portuguese.",
        "Which language does the neighbours' parrot swear in?",
        "Portuguese",
    ),
    Fact(
        "I take one pill of levothyroxine before breakfast.",
        "What medicine do I need every morning?",
        "levothyroxine",
        apart=True,
    ),
    Fact(
        "The choir rehearses in the chapel of Saint Brannoc.",
        "Where does the choir rehearse?",
        "Saint Brannoc",
    ),
    Fact(
        "My first computer had 48 kilobytes of memory.", "How much memory did my first computer have?", "48"
    ),
    Fact("The mechanic said the left rear tyre is worn out.", "Which tyre is worn out?", "left rear"),
    Fact(
        "For the anniversary I bought Marisol a telescope.",
        "Which gift did I give on our wedding day?",
        "telescope",
        apart=True,
    ),
    Fact(
        "The parcel is waiting at the bakery on Finch Lane.",
        "Where can I pick up the parcel?",
        "bakery on Finch Lane",
    ),
    Fact("Our team lost the final by 31 points.", "By how many points did our team lose?", "31"),
    Fact("The dentist found a cavity in my upper molar.", "What did the dentist find?", "a cavity"),
    Fact(
        "I met Leocadia at a pottery class in Bruges.", "How did Leocadia and I meet?", "at a pottery class"
    ),
    Fact(
        "The council rejected our plan to build a sauna.",
        "Which construction were we not allowed to put up?",
        "a sauna",
        apart=True,
    ),
)
