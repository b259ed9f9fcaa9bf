"""Formats of image files by their names and first bytes, those that are not read included."""

SNIFFED = 64
"""number of first bytes that `image_format` needs"""

OTHER_FORMATS = {
    "HEIF": "heic heif hif heics avci avcs",
    "AVIF sequence": "avifs",
    "JPEG XL": "jxl",
    "JPEG 2000": "jp2 j2k j2c jpc jpf jpx jpm jpt",
    "JPEG XR": "jxr hdp wdp",
    "JPEG-LS": "jls",
    "multi-picture JPEG": "mpo",
    "GIF": "gif",
    "animated PNG": "apng mng",
    "Photoshop": "psd psb",
    "GIMP": "xcf",
    "SVG": "svg svgz",
    "PostScript": "eps",
    "camera raw": "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf "
    "raw rw2 rwl sr2 srf srw x3f",
    "OpenEXR": "exr",
    "Radiance HDR": "hdr",
    "DDS": "dds",
    "TGA": "tga icb vda vst",
    "PNM": "pbm pgm ppm pnm pam pfm",
    "PCX": "pcx",
    "icon": "ico cur icns",
    "SGI": "sgi rgb rgba bw",
    "QOI": "qoi",
    "DICOM": "dcm dicom",
    "NIfTI": "nii nii.gz",
    "FITS": "fits fit fts",
    "slide": "svs ndpi mrxs scn vsi qptiff bif",
    "microscope": "czi lif lsm nd2 oib oif stk zvi",
}
"""name → extensions of image formats that are not read"""

_BY_EXTENSION = {
    extension: name for name, listed in OTHER_FORMATS.items() for extension in listed.split()
}
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0\x08\0", "TIFF"),
    (b"MM\0+\0\x08", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS\0", "Photoshop"),
    (b"gimp xcf", "GIMP"),
    (b"<svg", "SVG"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE\n", "Radiance HDR"),
    (b"DDS |", "DDS"),
    (b"qoif", "QOI"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"SIMPLE  =", "FITS"),
)
_FIRST_BYTES = frozenset(signature[:1] for signature, _ in _STARTS)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF sequence"}
_BRANDS |= dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"), "HEIF")
_BRANDS[b"crx "] = "camera raw"
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""sizes of the header that follows a BMP's first 14 bytes"""


def other_format(extension: str) -> str | None:
    """Format that files with this extension (lower case, may hold dots) have, if it is not read."""
    return _BY_EXTENSION.get(
        "nii.gz" if extension.endswith("nii.gz") else extension.rpartition(".")[2]
    )


def image_format(start: bytes) -> str | None:
    """Format of an image file by its first SNIFFED bytes; None for files that are no images."""
    if start[:1] in _FIRST_BYTES:
        for signature, name in _STARTS:
            if start.startswith(signature):
                return name
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12])
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None
