"""Numbers and confidence intervals as text."""

from cxr.evaluation.bootstrap import DECIMALS, is_significant
from cxr.evaluation.results import Interval


def signed(difference: float) -> str:
    """A difference as text, `+0.012` or `-0.012`; `=` where it rounds to 0."""
    return f"{difference:+.{DECIMALS}f}" if round(difference, DECIMALS) else "="


def signed_span(found: Interval) -> str:
    """A difference with its 95 % CI; bold where the CI excludes 0."""
    text = f"{signed(found.value)} ({limits(found)})"
    return f"**{text}**" if is_significant(found) else text


def limits(found: Interval) -> str:
    """The 95 % CI of a difference, without the difference."""
    if found.low is None or found.high is None:
        return "undefined"
    return " to ".join(signed(limit).replace("=", "0") for limit in (found.low, found.high))


def span(found: Interval) -> str:
    """Value and 95 % interval as text: `0.982 (0.968-0.994)`."""
    if found.low is None or found.high is None:
        return f"{found.value:.{DECIMALS}f} (undefined)"
    return f"{found.value:.{DECIMALS}f} ({found.low:.{DECIMALS}f}-{found.high:.{DECIMALS}f})"
