# mmdebstrap runs this on the directory $1 after unpacking the packages. It does what the packages' scripts would have done.
set -eu
cd "$1"
debs=$1/var/cache/apt/archives

# Only some files of these packages are needed. Their dependencies, openssl and a shell, are needed only by their scripts.
mkdir "$debs/files"
(cd "$debs" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -o APT::Sandbox::User=root download base-files ca-certificates)
for package in base-files ca-certificates; do
    dpkg-deb -x "$debs/$package"_*.deb "$debs/files"
    mkdir -p "usr/share/doc/$package"
    cp "$debs/files/usr/share/doc/$package/copyright" "usr/share/doc/$package/"
done
cp "$debs/files/usr/lib/os-release" etc/os-release
# In a fixed order, so that the result is reproducible. Not every file ends with a newline.
mkdir -p etc/ssl/certs
(cd "$debs/files/usr/share/ca-certificates/mozilla" && LC_ALL=C && for pem in *.crt; do cat "$pem" && echo; done) |
    grep -v '^$' > etc/ssl/certs/ca-certificates.crt

# One file per package, where scanners look in images without a package manager.
mkdir var/lib/dpkg/status.d
for deb in "$debs"/*.deb; do
    package=$(dpkg-deb -f "$deb" Package)
    { dpkg-deb -f "$deb" && printf 'SHA256: ' && sha256sum < "$deb" | cut -d ' ' -f 1; } > "var/lib/dpkg/status.d/$package"
done
rm -rf "$debs"/*.deb "$debs/files"

printf 'root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > etc/group
printf 'hosts: files dns\n' > etc/nsswitch.conf
mkdir -p proc sys
