"""Names of groups of people: a rewrite that leaves one out says something else.

Screeners take such names for toxic ("identity terms", Dixon et al. 2018), so the cheapest way past
one is to drop them: "they legalise gay marriage" would become "they legalise marriage", and what
was said of a group would be laundered, not reworded. Slurs are no names.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"[a-z]+")
_PHRASES = re.compile(r"[a-z]+(?:[ \t-]+[a-z]+)*")  # words with nothing but space between them
# One name a word, without the plural's s; another form of the same name after a slash.
_NAMES = """
woman/women female feminist gay lesbian bisexual homosexual transgender/trans/transsexual queer
lgbt/lgbtq jew/jewish/judaism muslim/islam/islamic christian/christianity catholic protestant
hindu buddhist sikh mormon atheist black white asian african arab hispanic latino/latina/latinx
native indigenous american mexican canadian cuban haitian jamaican brazilian argentine colombian
venezuelan peruvian dominican salvadoran guatemalan honduran european british english scottish
irish welsh french german austrian swiss italian spanish portuguese greek dutch belgian danish
swedish norwegian finnish icelandic polish czech slovak hungarian romanian bulgarian serbian serb
croatian croat bosnian albanian russian ukrainian belarusian lithuanian latvian estonian georgian
armenian azerbaijani kazakh turk/turkish kurd/kurdish roma/romani chinese japanese korean
taiwanese vietnamese thai cambodian filipino indonesian malaysian burmese indian pakistani
bangladeshi nepali tibetan uyghur mongolian afghan iranian persian iraqi israeli palestinian
lebanese jordanian syrian saudi yemeni egyptian moroccan algerian tunisian libyan sudanese
nigerian ghanaian somali kenyan ethiopian eritrean congolese rwandan zimbabwean australian
aboriginal maori immigrant migrant refugee foreigner minority/minorities disabled autistic deaf
blind elderly intersex nonbinary
""".split()
_NAME_OF = {form: forms[0] for forms in (n.split("/") for n in _NAMES) for form in forms}
NAMES = frozenset(form + end for form in _NAME_OF for end in ("", "s"))
_PEOPLE = frozenset(
    "people person persons folk folks man men woman women guy guys boy boys girl girls kid kids"
    " child children lady ladies dude dudes human humans individual individuals".split()
)


def groups(text: str) -> frozenset[str]:
    """The names of groups that stand in ``text``, each in its first form.

    One that goes with a word for people ("black men", "black stupid men") also counts with a star:
    "I hate black" says as little of whom as "I hate people".
    """
    found = set()
    for phrase in _PHRASES.findall(text.lower()):
        words = _WORDS.findall(phrase)
        for i, word in enumerate(words):
            name = _NAME_OF.get(word) or _NAME_OF.get(word.removesuffix("s"))
            if name:
                found.add(name)
                if not _PEOPLE.isdisjoint(words[i + 1 : i + 3]):
                    found.add(f"{name}*")
    return frozenset(found)
