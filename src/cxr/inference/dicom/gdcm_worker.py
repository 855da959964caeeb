"""Decode one compressed DICOM frame with GDCM, in a process of its own.

Some damaged frames crash GDCM, and its libraries print messages; neither affects the parent
process. Imports nothing from this project.

Standard input: a line of JSON, the options of pydicom's decoder; then PixelData as in the file.
Standard output: a line of JSON, the photometric interpretation; then the pixels as an NPY file.
"""

import io
import json
import sys
from contextlib import suppress

import numpy as np
from pydicom.pixels.decoders.base import get_decoder

MAX_MEMORY = 4 * 2**30  # bytes; the largest image takes less than 1 GiB


def main() -> None:
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    options = json.loads(sys.stdin.buffer.readline())
    decoder = get_decoder(options.pop("syntax"))
    stored, found = decoder.as_array(sys.stdin.buffer.read(), index=0, **options)
    print(json.dumps(found["photometric_interpretation"]), flush=True)
    pixels = io.BytesIO()
    np.save(pixels, stored)  # cannot write to a pipe
    sys.stdout.buffer.write(pixels.getbuffer())


if __name__ == "__main__":
    main()
