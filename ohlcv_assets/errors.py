"""The error tree: transient or permanent is decided here and nowhere else.

    OhlcvError
    ├── TransientError                worth asking again, bounded                          exit 3
    │   ├── ExchangeUnavailable       network, timeout, 5xx, a broken answer
    │   ├── RateLimited               429: wait `retry_after_s`, then ask again
    │   │   └── Banned                418: no REST at all until `retry_after_s` is over
    │   ├── IncompletePage            an answer that is not a whole page is never evidence of absence
    │   ├── ClockUncertain            the exchange's clock is not known to within a second
    │   ├── DatabaseUnavailable
    │   ├── LakeUnavailable
    │   └── WebhookUnavailable
    └── PermanentError                asking again gives the same answer
        ├── UsageError                what was asked cannot be meant                       exit 2
        │   ├── NaiveTime · ReversedInterval · UnknownMarket · UnknownSymbol · BadSetting
        │   └── UnknownUniverse · UniverseChanged
        ├── Finding                   the data are not what they must be                   exit 1
        │   ├── InvalidBars · LakeConflict · CorruptFile
        │   └── ObjectMissing · DayMissing · NoBars · NotVerified · IncompleteWindow
        └── Refused                   the exchange, the database or the machine said no    exit 3

Lives here: every error class that the package raises, its exit code, and the table that turns each
exception of ccxt into one of ours. Does not: retrying (exchange/retrying.py), or any import of ccxt, whose
classes are known here by name so that a client without ccxt can still read errors.
"""

from __future__ import annotations

from typing import ClassVar


class OhlcvError(Exception):
    """An error of this package: what happened, and what to do next.

    Args:
        message: what happened, naming the offending value.
        hint: what to do next, in the imperative; printed after "try:".
    """

    exit_code: ClassVar[int] = 3
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  try: {self.hint}"


class TransientError(OhlcvError):
    """Asking again may succeed; callers retry it, bounded."""

    transient = True


class ExchangeUnavailable(TransientError):
    """The exchange could not be reached, or answered with what is no answer."""


class RateLimited(TransientError):
    """The exchange asks for patience (429); `retry_after_s` are seconds of the exchange's clock."""

    def __init__(self, message: str, *, retry_after_s: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Banned(RateLimited):
    """The exchange bans this address (418) for `retry_after_s` seconds; no REST until then."""


class IncompletePage(TransientError):
    """A page of bars that is short, unparsable or not what was asked for."""


class ClockUncertain(TransientError):
    """The exchange's clock could not be measured to within a second."""


class DatabaseUnavailable(TransientError):
    """PostgreSQL does not answer."""


class LakeUnavailable(TransientError):
    """The object store or folder of the lake does not answer."""


class WebhookUnavailable(TransientError):
    """The address that alerts are posted to does not take them now."""


class PermanentError(OhlcvError):
    """Asking again gives the same answer."""


class UsageError(PermanentError):
    """What was asked cannot be meant; nothing was done."""

    exit_code = 2


class NaiveTime(UsageError):
    """A time without a time zone: it is refused, never taken for UTC by guess."""


class ReversedInterval(UsageError):
    """An interval [a, b) whose start is not before its end."""


class UnknownMarket(UsageError):
    """Neither spot nor futures."""


class UnknownSymbol(UsageError):
    """No symbol in the CCXT unified form, or one that the exchange does not list."""


class BadSetting(UsageError):
    """An environment variable with a value that cannot be used."""


class UnknownUniverse(UsageError):
    """No universe file of that version."""


class UniverseChanged(UsageError):
    """A released universe file whose content is not the released one."""


class Finding(PermanentError):
    """The data are not what they must be; nothing was lost."""

    exit_code = 1


class InvalidBars(Finding):
    """Bars that break an invariant of bars.py."""


class LakeConflict(Finding):
    """A day is in the lake already, with other content."""


class CorruptFile(Finding):
    """A file of the lake whose content does not have the hash that it was written with."""


class ObjectMissing(Finding):
    """There is no such object in the lake."""


class DayMissing(ObjectMissing):
    """A UTC day's bars are not in the lake, or not in the store that was asked."""


class NoBars(Finding):
    """Nothing of what a reader asked for is stored."""


class NotVerified(Finding):
    """Bars were asked for that two captures agree about, and of some minutes the ledger does not say so."""


class IncompleteWindow(Finding):
    """A window of resampled bars lacks minutes."""


class Refused(PermanentError):
    """The exchange, the database or the machine said no, for good."""


#: Every exception class of ccxt.base.errors, by name, and what it means to us. A test enumerates ccxt's
#: classes and fails on one that is not here. The most specific class of a raised exception decides.
CCXT_ERRORS: dict[str, type[OhlcvError]] = {
    "BaseError": Refused,
    # A bare ExchangeError is what a truncated body becomes (worth asking again), and every code that ccxt does not know
    # (asking again changes nothing). Attempts are bounded (exchange/retrying.py), so that a wrong guess costs some
    # seconds here, and a bar if it were called final.
    "ExchangeError": ExchangeUnavailable,
    "OperationFailed": ExchangeUnavailable,  # among others the exchange's code -1001
    "NetworkError": ExchangeUnavailable,
    "ExchangeNotAvailable": ExchangeUnavailable,
    "OnMaintenance": ExchangeUnavailable,
    "RequestTimeout": ExchangeUnavailable,
    "BadResponse": ExchangeUnavailable,
    "NullResponse": ExchangeUnavailable,
    "ChecksumError": ExchangeUnavailable,
    "InvalidNonce": ExchangeUnavailable,
    "CancelPending": ExchangeUnavailable,
    "UnsubscribeError": ExchangeUnavailable,
    "DDoSProtection": RateLimited,  # 429 and 418 alike: told apart by the status
    "RateLimitExceeded": RateLimited,
    "BadSymbol": UnknownSymbol,
    "BadRequest": Refused,
    "ArgumentsRequired": Refused,
    "NotSupported": Refused,
    "OperationRejected": Refused,
    "NoChange": Refused,
    "MarginModeAlreadySet": Refused,
    "MarketClosed": Refused,
    "ManualInteractionNeeded": Refused,
    "RestrictedLocation": Refused,
    "AuthenticationError": Refused,
    "PermissionDenied": Refused,
    "AccountNotEnabled": Refused,
    "AccountSuspended": Refused,
    "InsufficientFunds": Refused,
    "InvalidAddress": Refused,
    "AddressPending": Refused,
    "InvalidOrder": Refused,
    "OrderNotFound": Refused,
    "OrderNotCached": Refused,
    "OrderImmediatelyFillable": Refused,
    "OrderNotFillable": Refused,
    "DuplicateOrderId": Refused,
    "ContractUnavailable": Refused,
    "InvalidProxySettings": BadSetting,
    "ExchangeClosedByUser": Refused,
}


def meaning_of(ccxt_class_names: list[str]) -> type[OhlcvError]:
    """The class of ours that an exception of ccxt means.

    Args:
        ccxt_class_names: the names of the exception's classes, most specific first (its `__mro__`).

    Returns:
        The entry of `CCXT_ERRORS` for the first known name; `Refused` when none is known.
    """
    return next((CCXT_ERRORS[name] for name in ccxt_class_names if name in CCXT_ERRORS), Refused)
