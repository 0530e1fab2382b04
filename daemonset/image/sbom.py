"""Writes the image's bill of materials, CycloneDX 1.5: sbom.py TARGET ROOTFS.tar ARCH DIGEST

The crates are those that cargo reports for this binary and target, without tests, build scripts and macros. The other components are
the packages that the root file system lists. The same image gives the same bytes.
"""

import datetime
import email.parser
import json
import os
import re
import subprocess
import sys
import tarfile
import uuid
from urllib.parse import quote

STATUS = "./var/lib/dpkg/status.d/"


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def checksums():
    """SHA-256 by name and version, from the lock file. A crate without a checksum is our own."""
    with open("Cargo.lock", encoding="utf-8") as file:
        blocks = file.read().split("[[package]]")[1:]
    found = {}
    for block in blocks:
        fields = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', block, re.MULTILINE))
        found[fields["name"], fields["version"]] = fields.get("checksum")
    return found


def crates(target):
    """Components for the crates, and their dependencies."""
    edges = ["tree", "--package", "podrole", "--target", target, "--edges", "normal,no-proc-macro"]
    lines = cargo(*edges, "--prefix", "none", "--format", "{p}").splitlines()
    built = {tuple(line.split()[:2]) for line in lines if line}
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))
    locked = checksums()
    packages = {
        package["id"]: package
        for package in metadata["packages"]
        if (package["name"], f"v{package['version']}") in built
    }
    components = []
    for package in packages.values():
        checksum = locked[package["name"], package["version"]]
        components.append({
            "type": "library" if checksum else "application",
            "bom-ref": crate_purl(package),
            "name": package["name"],
            "version": package["version"],
            "description": (package["description"] or "").strip(),
            "licenses": [{"expression": package["license"].replace("/", " OR ")}] if package["license"] else [],
            "hashes": [{"alg": "SHA-256", "content": checksum}] if checksum else [],
            "purl": crate_purl(package),
        })
    needs = {}
    for node in metadata["resolve"]["nodes"]:
        if node["id"] in packages:
            used = [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
            needs[crate_purl(packages[node["id"]])] = sorted(crate_purl(packages[id]) for id in used if id in packages)
    return components, needs


def crate_purl(package):
    return f"pkg:cargo/{package['name']}@{quote(package['version'])}"


def standard_library():
    """Rust's standard library, which is compiled in but in no lock file."""
    version, commit = (
        re.search(rf"^{field}: (.*)$", subprocess.check_output(["rustc", "-vV"], encoding="utf-8"), re.MULTILINE)[1]
        for field in ("release", "commit-hash")
    )
    purl = f"pkg:generic/rust-std@{version}?vcs_url=git%2Bhttps://github.com/rust-lang/rust%40{commit}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": "rust-std",
        "version": version,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": purl,
    }


def debian(rootfs):
    """Components for the packages that the root file system lists, and their dependencies."""
    with tarfile.open(rootfs) as tar:
        files = [entry for entry in tar.getmembers() if entry.isfile() and entry.name.startswith(STATUS)]
        parse = email.parser.Parser().parsestr
        packages = {
            entry.name.removeprefix(STATUS): parse(tar.extractfile(entry).read().decode("utf-8")) for entry in files
        }
        release = tar.extractfile("./etc/os-release").read().decode("utf-8")
    distro = "debian-" + re.search(r'^VERSION_ID="?(\d+)', release, re.MULTILINE)[1]
    purls = {
        name: f"pkg:deb/debian/{name}@{quote(fields['Version'])}?arch={fields['Architecture']}&distro={distro}"
        for name, fields in packages.items()
    }
    components, needs = [], {}
    for name, fields in packages.items():
        depends = re.split(r"[,|]\s*", ", ".join(filter(None, (fields["Pre-Depends"], fields["Depends"]))))
        named = {re.match(r"[a-z0-9.+-]*", depend)[0] for depend in depends}
        needs[purls[name]] = sorted(purls[other] for other in named if other in packages)
        components.append({
            "type": "library",
            "bom-ref": purls[name],
            "name": name,
            "version": fields["Version"],
            "description": fields["Description"].splitlines()[0],
            "hashes": [{"alg": "SHA-256", "content": fields["SHA256"]}],
            "purl": purls[name],
        })
    return components, needs


def main(target, rootfs, arch, digest):
    rust, rust_needs = crates(target)
    std = standard_library()
    packages, package_needs = debian(rootfs)
    (podrole,) = (component for component in rust if component["name"] == "podrole")
    image = f"pkg:oci/podrole@{quote(digest)}?arch={arch}"
    needs = {
        image: sorted([podrole["purl"], *package_needs]),
        std["purl"]: [],
        **{purl: sorted([*used, std["purl"]]) if purl == podrole["purl"] else used for purl, used in rust_needs.items()},
        **package_needs,
    }
    created = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, image).urn,
        "version": 1,
        "metadata": {
            "timestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": "podrole",
                "version": podrole["version"],
                "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
                "purl": image,
            },
        },
        "components": sorted([*rust, std, *packages], key=lambda component: component["purl"]),
        "dependencies": [{"ref": ref, "dependsOn": needs[ref]} for ref in sorted(needs)],
    }
    json.dump(bom, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
