"""Image files as request bodies for Schemathesis, which otherwise sends random bytes."""

import schemathesis
from hypothesis import strategies

from cxr.inference.serve import CONTENT_TYPES
from tests.support.tiny import content_as, grey


@strategies.composite
def images(draw: strategies.DrawFn) -> bytes:
    size = strategies.integers(1, 60)
    image = grey(draw(strategies.integers(0, 255)), (draw(size), draw(size)))
    return content_as(image, draw(strategies.sampled_from(["PNG", "JPEG"])))


for name in CONTENT_TYPES:
    schemathesis.openapi.media_type(name, images())
