"""Which caches, scenarios and options go together; the others are refused, none is passed over in silence."""

from .caches import AUTO, CACHES, KINDS, PAGED, DoesNotApply
from .scenarios import BARE, GENERATE, PLAIN, SAME_CALLS, SCENARIOS


def check_names(cache: str, scenario: str):
    """Raise ValueError for a cache or a scenario of another name, or for two that do not go together."""
    if cache not in (AUTO, *CACHES):
        raise ValueError(f"cache is {cache!r}; it must be one of {', '.join((AUTO, *CACHES))}")
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario is {scenario!r}; it must be one of {', '.join(SCENARIOS)}")
    if cache == PAGED and scenario != PLAIN:
        raise DoesNotApply(f"the paged cache decodes in the scenario {PLAIN} alone; {scenario} came")
    if cache in KINDS and KINDS[cache].lossy and scenario not in SAME_CALLS:
        names = ", ".join(SAME_CALLS)
        raise DoesNotApply(f"a quantised cache rounds by calls; it is judged in the scenarios {names}; {scenario} came")


def check_silent(cache: str, scenario: str, attention: str | None, padded: bool):
    """Raise ValueError where a cache or a scenario has no use for an attention, or for padding and positions."""
    if cache == PAGED and attention:
        raise DoesNotApply(f"the paged cache has an attention of its own, which {attention} cannot replace")
    why = {GENERATE: "makes masks and positions itself", BARE: "is given neither mask nor positions"}.get(scenario)
    why = "packs its rows without padding" if cache == PAGED else why
    if why and padded:
        name = cache if cache == PAGED else scenario
        raise ValueError(f"{name} {why}; leave --left-padded and --no-position-ids out")
