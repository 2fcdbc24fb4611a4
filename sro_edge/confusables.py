"""Letters of other scripts that look like a Latin one.

The second column holds the single-letter entries of confusables.txt (Unicode Technical Standard 39,
version 13) whose prototype is a Latin letter, without those that NFKC or the character's own name
resolves, and the Canadian syllabics that complete its alphabet; the third holds letters that
readers take for it and that the standard does not list. A table, not a dependency: the packages
with the standard's whole data fold real words of other scripts as well, and what is folded decides
scores, so it must not change with an update.
"""

from __future__ import annotations

import re

_ROWS = """
a ɑΑαАаᎪᗅᗩ       ΛлӐӑ
b ƄΒВЬᏏᏴᑲᖯᗷ      βвьъ
c ϲϹСсᏟⲤⲥᑕ
d ԁᎠᏧᑯᗞᗪ         ժ
e ΕЕеҽᎬ℮ⴹ        εєэɛзə
f Ϝքᖴẝ           ғ
g ƍɡԌցᏀᏳ
h ΗНһհᎻᏂᕼⲎ       нңђћ
i ıɩιіӏᎥΙІӀⲒ     ὶїί
j ͿϳЈјᎫᒍ
k ΚКᏦᛕⲔ          κкқҝ
l ƖᏞᒪⳐ           ℓ
m ΜϺМᎷᗰᛖⲘ        м
n ΝոռⲚᑎ          πпηи
o ΟοσОоՕօסᴑⲞⲟⵔ   θөф
p ΡρϱРрᏢᑭⲢⲣ      þ
q ԛգզⵕᑫ
r ƦгᎡᏒᖇᴦⲅ        яґ
s ƽЅѕՏᏕᏚᔕ
t ΤТᎢⲦ           τт
u υՍսᑌ           μцџ
v νѴѵטᏙᐯⴸ
w ɯѡԜԝաᎳᏔᗯ       ωшщ
x ΧХхᕁᕽⲬⵝ        χж
y ɣΥγϒУуҮүყᎩᎽℽⲨ
z ΖᏃᘔ
"""


def _table(part: int) -> dict[str, str]:
    rows = (re.split(" +", row) for row in _ROWS.strip().splitlines())
    return {c: row[0] for row in rows for c in "".join(row[part : part + 1])}


HOMOGLYPHS = _table(1)  # letter beyond ASCII -> the small Latin letter that it is drawn like
LOOKALIKES = _table(2) | HOMOGLYPHS  # the same with letters that are only read like it
