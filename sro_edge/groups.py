"""Names of groups of people: a rewrite that leaves one out says something else.

Screeners take such names for toxic ("identity terms", Dixon et al. 2018), so the cheapest way past
one is to drop them: "they legalise gay marriage" would become "they legalise marriage", and what
was said of a group would be laundered, not reworded. Slurs are no names.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"[a-z]+")
# One name a word, without the plural's s; another form of the same name after a slash.
_NAMES = """
woman/women female feminist
gay lesbian bisexual homosexual transgender/trans/transsexual queer lgbt/lgbtq
jew/jewish/judaism muslim/islam/islamic christian/christianity catholic protestant hindu buddhist
sikh mormon atheist
black white asian african arab hispanic latino/latina/latinx native indigenous
american mexican canadian british english scottish irish welsh french german italian spanish polish
russian ukrainian greek turk/turkish dutch swedish
chinese japanese korean vietnamese filipino indian pakistani bangladeshi afghan iranian iraqi
israeli palestinian syrian saudi egyptian nigerian somali kenyan ethiopian
immigrant migrant refugee foreigner minority/minorities
disabled autistic deaf blind
""".split()
_NAME_OF = {form: forms[0] for forms in (n.split("/") for n in _NAMES) for form in forms}


def groups(text: str) -> frozenset[str]:
    """The names of groups that stand in ``text``, each in its first form."""
    found = (
        _NAME_OF.get(word) or _NAME_OF.get(word.removesuffix("s"))
        for word in _WORDS.findall(text.lower())
    )
    return frozenset(name for name in found if name)
