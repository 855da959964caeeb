"""The web page served with networks of known outputs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
from keras import layers
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from cxr.inference import serve
from cxr.inference.serve import LIMITS, Limits
from tests.support.tiny import COLUMNS, SIDE, export


def export_with_keras(models: Path) -> Path:
    """Write the folder `exported` and Keras models next to it, as the pipeline does."""
    folder = models / "exported"
    folder.mkdir()
    export(folder)
    image = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    maps = layers.Conv2D(2, 3, activation="relu")(layers.Rescaling(1 / 255)(image))
    pooled = layers.GlobalAveragePooling2D()(maps)
    model = keras.Model(image, layers.Dense(1, activation="sigmoid")(pooled))
    for name in COLUMNS:
        model.save(models / f"{name}.keras")
    return folder


@contextmanager
def running(
    models: Path, limits: Limits = LIMITS, variant: str = "", base: str = ""
) -> Iterator[str]:
    """Run a server in a thread; yields its address, with the path `base` of the application."""
    with serve.listen("127.0.0.1", 0) as listener:
        app: ASGIApp = serve.application(models, variant, limits=limits)
        server = serve.server(Starlette(routes=[Mount(base, app)]) if base else app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield "http://{}:{}{}".format(*listener.getsockname(), base)
        finally:
            server.should_exit = True
            thread.join()
