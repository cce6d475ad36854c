"""Texts that agents of loops write: answers to customers, put in other words, edited, extended."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

PHRASINGS: Final = (
    (
        "Your parcel left our warehouse in Rotterdam on Monday",
        "On Monday the parcel was dispatched from the Rotterdam warehouse",
        "The warehouse in Rotterdam handed your parcel over on Monday",
    ),
    (
        "The refund for the broken kettle reaches your account within ten days",
        "You will see the kettle refund on your account in ten days at most",
        "Within ten days we return the money for the broken kettle to your account",
    ),
    (
        "Returns are free when the original packaging is kept",
        "If you keep the original packaging, returns cost nothing",
        "Keep the original packaging and your return is free of charge",
    ),
    (
        "Our technician visits your house on Thursday to replace the thermostat",
        "On Thursday a technician comes to your house and replaces the thermostat",
        "The thermostat is replaced by our technician at your house on Thursday",
    ),
    (
        "The subscription renews itself every April unless you cancel before",
        "Unless it is cancelled before, your subscription renews every April",
        "Every April the subscription is renewed automatically, unless you cancel it earlier",
    ),
    (
        "A damaged display is covered by the extended guarantee",
        "The extended guarantee covers damage to the display",
        "Damage of the display falls under your extended guarantee",
    ),
    (
        "Please send a photograph of the serial number on the back",
        "We need a photograph of the serial number on the back, please",
        "Could you send us a photo of the serial number that is printed on the back",
    ),
    (
        "The invoice was issued twice because of a failure in our billing system",
        "Because of a failure in the billing system, the invoice was issued twice",
        "Our billing system failed and issued your invoice twice",
    ),
    (
        "Delivery to islands takes two weeks longer than to the mainland",
        "Islands are delivered to two weeks later than the mainland",
        "It takes two weeks longer to deliver to islands than to the mainland",
    ),
    (
        "Your loyalty points expire at the end of the calendar year",
        "At the end of the calendar year your loyalty points expire",
        "Loyalty points that you do not use expire when the calendar year ends",
    ),
)
"""Facts, each in several wordings as a model would find them."""
GREETINGS: Final = ("Dear customer", "Hello", "Good morning", "Thank you for writing to us")
CLOSINGS: Final = ("Kind regards", "With best wishes", "Yours sincerely", "Have a nice day")

_WHO: Final = (
    *("the committee", "a farmer", "our laboratory", "the museum", "an engineer", "the village"),
    *("a translator", "the port", "her brother", "the orchestra", "a botanist", "the ministry"),
    *("our neighbour", "the bakery", "an astronomer"),
)
_DID: Final = (
    *("repaired", "catalogued", "abandoned", "inherited", "photographed", "postponed", "sold"),
    *("restored", "described", "weighed", "borrowed", "painted", "measured", "hid", "auctioned"),
)
_WHAT: Final = (
    *("a wooden bridge", "the oldest manuscript", "seven lanterns", "the northern lighthouse"),
    *("a copper kettle", "the missing ledger", "an unfinished sonata", "the frozen harbour"),
    *("a collection of moths", "the summer timetable", "two telescopes", "the flooded cellar"),
    *("a recipe for rye bread", "the yellow tram", "a map of the coast"),
)
_WHEN: Final = (
    *("before the war", "last winter", "in Lisbon", "after the storm", "without permission"),
    *("for a small fee", "by accident", "during the eclipse", "near the canal", "in great haste"),
    "at the request of the mayor",
)


def reply(rng: random.Random, facts: Sequence[int]) -> str:
    """The same facts, in an order and wording of its own."""
    told = [rng.choice(PHRASINGS[fact]) for fact in rng.sample(facts, len(facts))]
    body = rng.choice((". ", ".\n")).join(told)
    return f"{rng.choice(GREETINGS)}. {body}. {rng.choice(CLOSINGS)}."


def sentence(rng: random.Random) -> str:
    """One of 37,125 statements."""
    return " ".join(rng.choice(words) for words in (_WHO, _DID, _WHAT, _WHEN))


def sentences(rng: random.Random, least: int, most: int) -> list[str]:
    """Several statements."""
    return [sentence(rng) for _ in range(rng.randint(least, most))]


def prose(told: Sequence[str]) -> str:
    """Statements as a paragraph."""
    return " ".join(f"{each[0].upper()}{each[1:]}." for each in told)
