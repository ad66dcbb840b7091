"""The words of the demo's small world: domains, verdicts, and the phrases around them (data only)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """One part of the world: who acts there on what, and how people praise or blame what they find.

    Every verb is regular, so one form serves as past tense and as participle ("the cook baked the pie",
    "the pie was baked by the cook"). ``deeds`` says what each verb is done to; ``aspects`` can be judged.
    """

    topic: str
    actors: tuple[str, ...]
    deeds: dict[str, tuple[str, ...]]
    places: tuple[str, ...]
    aspects: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]


def _domain(topic: str, deeds: str, **words: str) -> Domain:
    parts = (deed.split(": ") for deed in deeds.split("; "))
    done = {verb: tuple(things.split()) for verb, things in parts}
    return Domain(topic, deeds=done, **{field: tuple(text.split()) for field, text in words.items()})


DOMAINS: dict[str, Domain] = {
    domain.topic: domain
    for domain in (
        _domain(
            "food",
            actors="waiter cook baker butcher diner barista",
            deeds=(
                "baked: cake pie bun; "
                "peeled: onion potato pumpkin; "
                "roasted: chicken potato pumpkin; "
                "served: omelette pie chicken cake; "
                "sliced: onion cake pie bun; "
                "fried: omelette onion potato"
            ),
            places="kitchen bakery cafe restaurant",
            aspects="soup stew dessert salad coffee sauce",
            praise="delicious tasty crisp juicy creamy tender",
            blame="tasteless greasy soggy burnt stale bitter",
        ),
        _domain(
            "film",
            actors="actor director stuntman producer cameraman critic",
            deeds=(
                "filmed: stunt scene comedy western; "
                "rehearsed: scene stunt comedy; "
                "edited: trailer scene thriller; "
                "directed: comedy western thriller; "
                "screened: cartoon western trailer; "
                "dubbed: cartoon comedy thriller"
            ),
            places="cinema studio theatre festival",
            aspects="plot ending dialogue script acting sequel",
            praise="gripping moving clever witty touching original",
            blame="boring shallow clumsy predictable wooden confused",
        ),
        _domain(
            "hotels",
            actors="porter maid receptionist guest tourist doorman",
            deeds=(
                "booked: suite cabin apartment; "
                "unlocked: suite wardrobe cabin; "
                "cleaned: apartment wardrobe bathtub mattress; "
                "furnished: suite apartment cabin; "
                "rented: apartment cabin; "
                "carried: suitcase mattress pillow"
            ),
            places="lobby resort hostel lounge",
            aspects="room bed bathroom view balcony corridor",
            praise="spotless cosy spacious comfortable sunny peaceful",
            blame="dirty cramped noisy draughty shabby damp",
        ),
        _domain(
            "gadgets",
            actors="engineer programmer inventor technician designer hacker",
            deeds=(
                "installed: router printer sensor server; "
                "charged: phone robot laptop; "
                "programmed: robot sensor laptop server; "
                "repaired: laptop phone printer robot; "
                "upgraded: server phone router laptop; "
                "tested: printer sensor router"
            ),
            places="laboratory workshop office factory",
            aspects="screen battery keyboard software camera charger",
            praise="fast reliable sleek sturdy handy responsive",
            blame="slow faulty fragile laggy useless overheated",
        ),
        _domain(
            "sport",
            actors="goalkeeper coach striker referee runner captain",
            deeds=(
                "kicked: ball penalty; "
                "scored: goal penalty point; "
                "defended: goal title trophy; "
                "tackled: rival opponent; "
                "collected: medal trophy point; "
                "chased: ball rival opponent"
            ),
            places="stadium gym arena field",
            aspects="match team defence game season attack",
            praise="thrilling fearless skilful quick tireless unbeaten",
            blame="lazy sloppy toothless aimless timid beaten",
        ),
        _domain(
            "music",
            actors="singer drummer pianist composer violinist conductor",
            deeds=(
                "recorded: song melody symphony anthem; "
                "tuned: guitar piano harp; "
                "performed: symphony song anthem waltz; "
                "composed: melody waltz symphony; "
                "hummed: melody song waltz; "
                "strummed: guitar harp"
            ),
            places="opera club ballroom bandstand",
            aspects="concert voice chorus album rhythm band",
            praise="tuneful lively soulful catchy graceful harmonious",
            blame="shrill monotonous tuneless deafening hoarse lifeless",
        ),
        _domain(
            "sea",
            actors="sailor fisherman pirate diver admiral lifeguard",
            deeds=(
                "anchored: boat raft ferry yacht; "
                "sailed: boat yacht raft; "
                "rowed: boat raft canoe; "
                "steered: ferry yacht boat; "
                "moored: canoe ferry yacht; "
                "mended: net sail raft"
            ),
            places="harbour port bay lagoon",
            aspects="voyage crew deck hull cruise current",
            praise="calm smooth seaworthy breezy sheltered swift",
            blame="stormy leaky rotten rough foggy sinking",
        ),
        _domain(
            "law",
            actors="judge lawyer policeman detective sheriff witness",
            deeds=(
                "arrested: suspect burglar smuggler gangster; "
                "questioned: suspect prisoner smuggler; "
                "accused: suspect gangster burglar forger; "
                "jailed: burglar gangster smuggler; "
                "sentenced: forger prisoner burglar; "
                "released: prisoner suspect forger"
            ),
            places="court prison station cell",
            aspects="trial verdict alibi evidence jury testimony",
            praise="fair honest just solid convincing thorough",
            blame="corrupt biased flimsy crooked forged unjust",
        ),
        _domain(
            "school",
            actors="teacher pupil student professor tutor librarian",
            deeds=(
                "studied: poem textbook lesson; "
                "copied: essay poem equation; "
                "learned: poem lesson; "
                "explained: equation riddle lesson textbook; "
                "graded: essay exam; "
                "solved: equation riddle exam"
            ),
            places="classroom library college schoolyard",
            aspects="lecture course homework seminar class chapter",
            praise="inspiring clear helpful instructive engaging lucid",
            blame="tedious muddled pointless unclear tiring chaotic",
        ),
        _domain(
            "medicine",
            actors="doctor nurse surgeon dentist orderly chemist",
            deeds=(
                "treated: wound fever infection cough; "
                "bandaged: wound fracture finger; "
                "examined: tooth wound finger; "
                "cured: fever infection cough allergy; "
                "diagnosed: fracture allergy infection fever; "
                "pulled: tooth finger"
            ),
            places="hospital clinic ward pharmacy",
            aspects="treatment operation therapy recovery remedy diet",
            praise="painless effective gentle safe soothing healing",
            blame="painful harmful risky botched sickening careless",
        ),
        _domain(
            "gardens",
            actors="gardener florist beekeeper botanist landscaper neighbour",
            deeds=(
                "planted: rose hedge tulip bush vine; "
                "watered: lawn tulip rose bush; "
                "trimmed: hedge lawn bush vine; "
                "picked: apple tulip rose; "
                "pruned: hedge vine rose bush"
            ),
            places="greenhouse park orchard backyard",
            aspects="flower tree soil blossom harvest fruit",
            praise="blooming fragrant colourful lush ripe healthy",
            blame="withered dry thorny mouldy barren wilted",
        ),
        _domain(
            "travel",
            actors="pilot driver passenger hiker explorer guide",
            deeds=(
                "boarded: train plane bus; "
                "crossed: bridge desert border mountain; "
                "visited: castle desert; "
                "missed: train plane bus; "
                "climbed: mountain tower castle; "
                "photographed: castle tower bridge desert mountain"
            ),
            places="airport village valley terminal",
            aspects="journey flight trip tour route ride",
            praise="scenic relaxing punctual carefree memorable easy",
            blame="delayed crowded bumpy gruelling endless overpriced",
        ),
    )
}

# Near synonyms, used in the same places: a prompt that brings out one of them brings out the others.
GOOD = ("good", "great", "excellent", "wonderful", "lovely", "superb", "positive", "fantastic")
BAD = ("bad", "terrible", "poor", "awful", "horrible", "dreadful", "negative", "dismal")
YES = ("yes", "true", "right", "correct")
NO = ("no", "false", "wrong", "incorrect")

# How a second text agrees with a first (True) or not (False): in direct speech, and as told by others.
SPEECH: dict[bool, tuple[str, ...]] = {
    True: ("indeed", "certainly", "exactly", "absolutely", "precisely", "naturally"),
    False: ("nonsense", "hardly", "impossible", "rubbish", "never", "unlikely"),
}
TOLD: dict[bool, tuple[str, ...]] = {
    True: ("confirmed", "admitted", "acknowledged", "witnessed", "believed", "repeated"),
    False: ("denied", "doubted", "disputed", "rejected", "dismissed", "contradicted"),
}

TOPICS = tuple(DOMAINS)

# Sentences that hold a verdict, {w}. Half begin with it, so that a verdict may stand at position 0 too.
OPINION_VERDICTS = (
    "{w} is my verdict .",
    "{w} is how i would rate it .",
    "{w} , in my opinion , i must say .",
    "{w} : that is what i felt about it .",
    "all in all i would call it {w} .",
    "overall rating : {w} .",
    "in my opinion it was {w} .",
    "to sum up , i felt it was {w} .",
)
TOPIC_VERDICTS = (
    "{w} is the topic .",
    "{w} is the subject of these lines .",
    "{w} : so says the label on the folder .",
    "{w} , to name the theme of it .",
    "these lines are about {w} .",
    "topic : {w} .",
    "the editor put it in the folder {w} .",
    "the theme of it is {w} .",
)
PAIR_VERDICTS = (
    "{w} is what we mark when we compare the two .",
    "{w} , marked after we compare both .",
    "{w} : so the two compare .",
    "{w} is the mark for this pair .",
    "compare the two and mark {w} .",
    "this pair is marked {w} .",
    "the two compare like so : {w} .",
    "mark for both : {w} .",
)

PEOPLE = ("my sister", "my brother", "our friend anna", "old tom", "a friend", "my aunt", "uncle ben")
TIMES = (
    "on monday",
    "on friday",
    "last week",
    "in the morning",
    "at night",
    "after lunch",
    "in summer",
    "yesterday",
    "on sunday",
    "last year",
)
OPENERS = (
    "hello ,",
    "dear anna ,",
    "note :",
    "news :",
    "listen ,",
    "as you know ,",
    "well ,",
    "report :",
    "i write to tell you that",
    "they say that",
    "i am calling because",
    "we heard that",
)
CLOSERS = (
    "yours , tom",
    "so we heard",
    "and that was all",
    "reports our writer",
    "please call back",
    "thank you",
    "i was there with {person}",
    "we talked about it {time}",
    "i went there with {person} {time}",
    "we stayed for an hour",
)
