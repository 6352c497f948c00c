"""Which model of a server is asked: the one that is named, or the only one that it lists."""

from .answers import expected, field
from .client import Client, ServerError

LISTLESS = (400, 404, 405, 501)  # how servers say that they have no list of models


def model_of(client: Client, wanted: str | None, notes: list[str]) -> str:
    """The name that requests carry.

    wanted  the user's; None where it is to be asked
    notes   get a sentence where nobody could check the name

    Raises ServerError where there is no such model, and where none was named and there is not one alone.
    """
    try:
        found = client.get("/models")
    except ServerError as error:
        if error.status is None:
            raise
        if wanted is None and error.status in LISTLESS:
            raise ServerError(f"{error}; without a list of models, name yours by --model", error.status) from None
        if wanted is None:
            raise
        notes.append(f"{client.url}/models answered {error.status}, so that nobody checked the model's name")
        return wanted
    where = f"{client.url}/models"
    listed = field(expected(found, dict, "the list of models", where) or {}, "data", list, where) or []
    models = [expected(x, dict, "data", where) or {} for x in listed]
    names = [name for x in models if (name := field(x, "id", str, where)) is not None]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    serves = f"{client.url} serves {client.shown(', '.join(names[:8])) or 'no model'}"
    if wanted is None:
        raise ServerError(f"{serves}; name one of them by --model")
    raise ServerError(f"{serves}; there is no {wanted!r}: name one of them by --model")
