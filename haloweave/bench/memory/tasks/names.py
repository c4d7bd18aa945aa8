# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Words for keys, services and hosts. All invented, or too plain to mean anybody.

Knows nothing else. The lists share no word, so that no two kinds of name can be taken for each other.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLOURS = _words("red blue green yellow orange purple brown black white pink grey golden silver crimson")
THINGS = _words(
    """
    lantern kettle saddle violin anchor basket compass drum feather goblet hammer ladder mirror needle
    pillow ribbon shovel teapot umbrella wagon
    """
)
ADJECTIVES = _words(
    """
    able acid aged airy ample arid avid bare bland blunt bold brave brief brisk broad calm cheap civil clean
    crisp curly cyclic damp deep dense dizzy dry dull dusty early easy elder empty equal exact faint fair
    fancy fast firm fluid frail frank fresh full fuzzy giant glad grand great handy harsh heavy hollow humid
    ideal inner jolly keen kind large late lazy lean legal level light local loose loud loyal lucky major
    mild minor moist muddy naive narrow neat noble noisy novel oblong odd
    """
)
NOUNS = _words(
    """
    acorn alley apron attic badge banjo barrel beach bench berry blade board bottle branch brick bridge
    bucket button cabin candle canoe carpet castle cellar chain chair chalk cherry clock cloud coast collar
    copper corner cotton cradle curtain desert dinner drawer engine fabric falcon farm fence ferry field
    forest fork garden garlic ginger glacier glove guitar hammock harbor helmet hill honey island jacket
    jungle kitchen lagoon leaf lemon lizard magnet maple meadow melon mitten nutmeg oasis olive orchard
    paddle parlor pebble pepper
    """
)
DUTIES = _words(
    """
    billing catalog checkout invoice ledger mailing payment quota roster search session voucher
    """
)
WORKERS = _words("broker cache gateway indexer poller queue relay router scanner sync")
BIRDS = _words(
    """
    avocet bittern bunting buzzard curlew dipper dunlin egret fulmar gannet godwit grebe harrier heron
    hoopoe jackdaw kestrel lapwing linnet magpie merlin osprey petrel pipit plover puffin redwing siskin
    swift wagtail
    """
)

KEYS = tuple(f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS)
"""Of lines."""
SERVICES = tuple(f"{duty}-{worker}" for duty in DUTIES for worker in WORKERS)
HOSTS = tuple(f"{bird}{number}" for number in range(1, 10) for bird in BIRDS)
