"""Bodies for Schemathesis, to which an image is any string of bytes."""

import schemathesis
from hypothesis import strategies

from cxr.inference.serve import CONTENT_TYPES
from tests.support.tiny import content_as, grey


@strategies.composite
def images(draw: strategies.DrawFn) -> bytes:
    side = strategies.integers(1, 60)
    image = grey(draw(strategies.integers(0, 255)), (draw(side), draw(side)))
    return content_as(image, draw(strategies.sampled_from(["PNG", "JPEG"])))


for name in CONTENT_TYPES:
    schemathesis.openapi.media_type(name, images())
