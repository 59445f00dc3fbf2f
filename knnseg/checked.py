"""Options that are checked by their annotations, wherever they come from: a file, a dictionary, or a call.

    >>> @checked("kettle")
    ... def boil(minutes: Count, power: Share = 1.0) -> None: ...
    >>> boil(0)
    Traceback (most recent call last):
    knnseg.errors.ConfigError: kettle.minutes: expected a whole number of at least 1, got 0

pydantic checks, strictly: neither a text nor true is a number, and numbers are finite. Values stay as they were given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, validate_call

from knnseg.errors import ConfigError
from knnstore.errors import did_you_mean

__all__ = ["AtLeast0", "Count", "Number", "Positive", "Share", "checked"]

# Either kind of number, so that 1 stays 1: what is made of it may be part of a fingerprint.
Number: TypeAlias = Annotated[int | float, Field(description="a number")]
AtLeast0: TypeAlias = Annotated[int | float, Field(ge=0, description="a number of at least 0")]
Positive: TypeAlias = Annotated[int | float, Field(gt=0, description="a number above 0")]
Share: TypeAlias = Annotated[int | float, Field(ge=0, le=1, description="0 to 1")]
Count: TypeAlias = Annotated[int, Field(ge=1, description="a whole number of at least 1")]

_RULES = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
Made = TypeVar("Made", bound=Callable[..., Any])


def checked(where: str) -> Callable[[Made], Made]:
    """Have the arguments of a function, or of the constructor of a class, checked by their annotations.

    Args:
        where: what they are options of, the beginning of every message.

    Returns:
        A decorator; what it makes raises :class:`~knnseg.errors.ConfigError` for an argument that does not exist, or is
        not as annotated. The ``description`` of an annotation is what the message says was expected.
    """

    def decorate(made: Any) -> Any:
        if isinstance(made, type):
            made.__init__ = decorate(made.__init__)  # type: ignore[misc]  # the same constructor, checked
            return made
        call = validate_call(config=_RULES)(made)

        @functools.wraps(made)
        def check(*args: Any, **options: Any) -> Any:
            try:
                return call(*args, **options)
            except ValidationError as error:
                raise _told(where, made, error, args, options) from None

        return check

    return decorate


def _told(where: str, made: Any, error: ValidationError, args: tuple[Any, ...], options: dict[str, Any]) -> ConfigError:
    problem, signature = error.errors(include_url=False)[0], inspect.signature(made)
    known, place = [name for name in signature.parameters if name != "self"], problem["loc"][0]
    if problem["type"] == "unexpected_keyword_argument":
        hint = did_you_mean(str(place), known)
        return ConfigError(f"{where}: unknown key {place!r}", expected=f"one of {known}", hint=hint)
    given = signature.bind(*args, **options).arguments
    name = list(signature.parameters)[place] if isinstance(place, int) else str(place)
    described = getattr(get_type_hints(made, include_extras=True)[name], "__metadata__", ())
    expected = described[0].description if described else problem["msg"].removeprefix("Input should be ")
    return ConfigError(f"{where}.{name}", expected=expected, got=repr(given[name]))
