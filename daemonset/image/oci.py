"""Names the image in the index of an OCI layout and prints its digest: oci.py INDEX NAME:TAG ARCH

umoci writes only the tag, from which containerd would make a name with the date of the import.
"""

import json
import sys


def main(path, name, arch):
    with open(path, encoding="utf-8") as file:
        index = json.load(file)
    (manifest,) = index["manifests"]
    manifest["annotations"]["io.containerd.image.name"] = name
    manifest["platform"] = {"architecture": arch, "os": "linux"}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(index, file, sort_keys=True, separators=(",", ":"))
    print(manifest["digest"])


if __name__ == "__main__":
    main(*sys.argv[1:])
