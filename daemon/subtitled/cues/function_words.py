"""Function words by language: a line may, or must not, break before or after them.

The rule follows the Netflix Timed Text Style Guides, "Line Treatment": break after punctuation, before conjunctions and
prepositions; never between article and noun, pronoun and verb, auxiliary and verb. The first class of a word counts.
"""

# ruff: noqa: RUF001 - Cyrillic is meant
from __future__ import annotations

from msgspec import Struct


class FunctionWords(Struct, frozen=True):
    """One language's function words, in lower case."""

    conjunctions: frozenset[str] = frozenset()
    """With relative pronouns: a line preferably begins with them and never ends with them."""
    prepositions: frozenset[str] = frozenset()
    """A line may begin with them, and never ends with them."""
    articles: frozenset[str] = frozenset()
    """With possessives and similar words: neither they nor the adjective after them end a line."""
    leaning: frozenset[str] = frozenset()
    """Pronouns, auxiliaries, negations: a line does not end with them."""
    trailing: frozenset[str] = frozenset()
    """Object pronouns: a line does not begin with them."""
    abbreviations: frozenset[str] = frozenset()
    """Written with a full stop that does not end a sentence, and followed by the word they belong to."""
    has_capital_nouns: bool = False
    """Nouns are capitalised: two capitalised words in a row are not necessarily a name."""
    has_ordinal_stops: bool = False
    """A full stop after a small number does not end a sentence: "3. Mai"."""

    def begins_phrase(self, word: str) -> bool:
        """Return whether a phrase of the sentence begins with `word`."""
        return word in self.prepositions or word in self.articles or word in self.leaning

    def is_function_word(self, word: str) -> bool:
        """Return whether no line ends with `word`."""
        return word in self.conjunctions or self.begins_phrase(word)


def function_words(language: str | None) -> FunctionWords:
    """Return the function words of `language` (ISO 639-1); none for a language without a list."""
    return _WORDS.get((language or "").partition("-")[0].lower(), _NONE)


def listed(words: str) -> tuple[str, ...]:
    """Return the words of a list written as one text."""
    return tuple(words.split())


def _set(words: str) -> frozenset[str]:
    return frozenset(listed(words))


_NONE = FunctionWords()
_WORDS = {
    "en": FunctionWords(
        _set(
            "and but or nor so yet because although though while when whenever where wherever if unless "
            "until since that which who whom whose whether before after as than why how once what"  # prose: allow
        ),
        _set(
            "about above across against along among around at behind below beneath beside besides between "
            "beyond by despite during except for from in inside into like near of off on onto out outside "
            "over past per through throughout to toward towards under up upon via with within without"
        ),
        _set(
            "a an the my your his her its our their this these those every each some any no another both "
            "few many several such"
        ),
        _set(
            "not i you he she it we they am is are was were be been being do does did have has had will "
            "would shall should can could may might must i'm you're we're they're he's she's it's that's "
            "i've you've we've they've i'd you'd he'd she'd we'd they'd i'll you'll he'll she'll we'll "
            "they'll don't doesn't didn't can't couldn't won't wouldn't isn't aren't wasn't weren't "
            "haven't hasn't hadn't shouldn't very too more most let's"
        ),
        trailing=_set("me him it us them"),
        abbreviations=_set(
            "mr mrs ms dr prof st gen col capt lt sgt sen rep rev hon no vs fig e.g i.e p.m a.m"
        ),
    ),
    "de": FunctionWords(
        _set(
            "und oder aber denn sondern doch dass daß weil wenn ob als obwohl während bevor nachdem damit "
            "sodass falls sobald solange wie wo wer was warum weshalb wobei wodurch womit"
        ),
        _set(
            "in im ins an am ans auf aufs aus bei beim mit nach von vom zu zum zur für fürs über übers "
            "unter vor vorm hinter neben zwischen durch durchs gegen ohne um ums bis seit wegen trotz "
            "statt anstatt innerhalb außerhalb ab pro"
        ),
        _set(
            "der die das den dem des ein eine einen einem einer eines kein keine keinen keinem keiner "
            "mein meine meinen meinem meiner dein deine deinen sein seine seinen seinem seiner ihr ihre "
            "ihren ihrem ihrer unser unsere unseren euer eure dieser diese dieses diesen diesem jeder "
            "jede jedes jeden jedem welche welcher welches alle im am vom zum zur beim"
        ),
        _set(
            "ich du er sie es wir man nicht sehr zu mehr ist sind war hat haben wird werden kann muss "
            "herr frau"
        ),
        abbreviations=_set("dr prof hr fr st nr bzw ca z.b d.h u.a usw sog abs art"),
        has_capital_nouns=True,
        has_ordinal_stops=True,
    ),
    "fr": FunctionWords(
        _set(
            "et ou mais donc or ni car que qu' qui quoi dont où quand lorsque puisque parce si comme "
            "quoique afin"
        ),
        _set(
            "à au aux de du des d' en dans sur sous par pour avec sans chez vers entre contre depuis "
            "pendant avant après derrière devant malgré parmi selon"
        ),
        _set(
            "le la les l' un une mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs ce cet "
            "cette ces chaque quelques"
        ),
        _set(
            "je j' tu il elle on nous vous ils elles ne n' pas me m' te t' se s' lui y est sont était a "
            "ai as ont avons avez suis très plus trop"
        ),
        abbreviations=_set("m mm mme mlle dr pr st ste no"),
    ),
    "es": FunctionWords(
        _set("y e o u pero sino ni que porque pues aunque cuando donde como si mientras quien cuyo para"),
        _set("a al de del en con por sin sobre entre hacia hasta desde contra según durante tras ante bajo"),
        _set(
            "el la los las lo un una unos unas mi mis tu tus su sus nuestro nuestra nuestros nuestras "
            "este esta estos estas ese esa esos esas cada"
        ),
        _set(
            "yo tú él ella nosotros ellos ellas no me te se le les nos es son era está están ha han he "
            "hemos muy más tan"
        ),
        abbreviations=_set("sr sra srta dr dra d ud uds"),
    ),
    "it": FunctionWords(
        _set(
            "e ed o ma però che perché poiché se quando dove come mentre anche né oppure quindi chi cui "
            "affinché"
        ),
        _set(
            "a al allo alla ai agli alle di del dello della dei degli delle da dal dallo dalla dai in nel "
            "nello nella nei negli nelle con su sul sulla sui sulle per tra fra senza verso dopo prima "
            "durante contro"
        ),
        _set(
            "il lo la i gli le l' un uno una un' mio mia miei tuo tua suo sua nostro nostra vostro vostra "
            "loro questo questa questi queste quel quella ogni"
        ),
        _set("io tu lui lei noi voi non mi ti si ci vi è sono era ha hanno ho abbiamo molto più"),
        abbreviations=_set("sig sig.ra dott prof"),
    ),
    "pt": FunctionWords(
        _set("e ou mas nem que porque pois embora quando onde como se enquanto quem cujo porém"),
        _set(
            "a ao aos à às de do da dos das em no na nos nas com por pelo pela pelos pelas para sem sobre "
            "entre até desde contra"
        ),
        _set(
            "o os as um uma uns umas meu minha meus minhas teu tua seu sua seus suas nosso nossa este "
            "esta estes estas esse essa aquele aquela cada"
        ),
        _set("eu tu ele ela nós vocês eles elas não me te lhe é são era está estão tem têm foi muito mais"),
        abbreviations=_set("sr sra dr dra"),
    ),
    "nl": FunctionWords(
        _set(
            "en of maar want dus dat omdat als toen wanneer terwijl hoewel voordat nadat zodat die wie "
            "wat waar hoe"
        ),
        _set(
            "in aan op uit bij met naar van tot voor over onder achter naast tussen door tegen zonder om "  # prose: allow
            "sinds per te"
        ),
        _set("de het een mijn jouw je zijn haar ons onze hun deze dit elke ieder geen"),
        _set(
            "niet ik jij u hij zij ze wij we jullie is was waren heeft hebben heb had wordt worden zal "
            "zou kan moet zeer heel meer"
        ),
        abbreviations=_set("dhr mevr dr prof nr bijv o.a"),
    ),
    "ru": FunctionWords(
        _set(
            "и а но или что чтобы потому если когда где как хотя пока который которая которое которые кто "
            "зато либо"
        ),
        _set("в во на с со к ко от до из у о об обо за под над при для без через между про по перед после"),
        _set("мой моя мои твой твоя его её их наш наша ваш ваша этот эта это эти"),
        _set("не ни я ты он она оно мы вы они очень самый"),
        abbreviations=_set("г ул д им т.е т.д т.п"),
    ),
}
