# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A page of English, written for this: what a trained model holds while its surgery is examined.

It must not change: another text is another examination.
"""

from __future__ import annotations

from typing import Final

ENGLISH: Final = """\
The mill had stood on the river for so long that nobody could say which of the two had been there
first. In a wet spring the water came up to the second step, and the miller's wife carried the flour
sacks to the upper floor, one after the other, and wrote the day and the height on the wall with a
piece of coal. There were forty-one such marks. The lowest was from the year in which the bridge was
built; the highest, a hand's breadth under the window, from the year in which it fell.

"You could sell," said her brother, who came from the town every second Sunday and always left
before dark. He had a small business there in clocks and barometers, and he liked things to have a
price. "With the money you would have two rooms near the station, a stove that works, and
neighbours." She answered that she had neighbours: a heron, an otter whom she had seen only twice,
and the old man at the ferry, who had not spoken to anybody since his boat was taken away, but who
raised his hat.

What she did not tell him was that she had begun to measure. Every morning, before the wheel was let
go, she read the level of the pond, the temperature of the air and the direction of the wind, and
entered the three numbers in a ledger that had been meant for debts. After eleven years she knew
more about this river than the engineers in the capital, who sent her a printed form each January
and never thanked her for it. She could tell from the colour of the foam whether it had rained in
the hills; and once, on a clear night in October, she had rung the bell an hour and a half before
the water came, so that not even a hen was lost.

The letter arrived on a Tuesday. It was short, and signed by three people. A dam was to be built
above the village, sixty metres high, with a road along the top; the valley behind it would become a
lake; the mill would be given a pump, because below the dam there would not be enough water to turn
a wheel. If the owner wished to object, she could do so in writing within thirty days, and should
give her reasons in the order of their importance.

She thought about this for a week. Then she took the ledger from its shelf, sharpened two pencils,
and started to copy. She copied the floods first and the dry summers after them, then the winters in
which the ice had held until March. She made a table of what the meadows had given in each year, and
beside it how long the water had stood on them; anyone who could read would see that the one
followed from the other. On the last page she drew the river as it had been in her grandmother's
time, with both arms, the island and the ford. Under the drawing she put a single sentence: a river
that is kept in a box forgets what it is for.

Nobody expected an answer, least of all the brother, who had found a buyer for the millstones. But
in the first days of May a young woman with a theodolite got out of the bus, asked for a glass of
water, and wanted to know who had made the table. She stayed for four weeks. She slept in the room
with the flour, counted the steps to the river, and learned from the old man at the ferry, who
turned out to have a voice like a bass drum, where the gravel lay and how it moved. When she left,
the dam had become a weir, eight metres high, with a gate for the fish; the lake had become a meadow
that might be flooded in bad years, and was to be paid for. The wheel could go on turning.

The forty-second mark on the wall is lower than one might think. It was made by a child, with a red
crayon, at the height of a child's knee, on an afternoon when there was no flood at all; and next to
it, in careful letters, stands the word that the miller's wife used for everything that was neither
good nor bad but had to be written down: noted.
"""
