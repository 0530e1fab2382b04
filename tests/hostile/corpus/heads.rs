//! Headers of a GET request for the caller's credentials: hosts, relays, session tokens, and the end of the request.

use std::iter;

/// Header lines that replace the right `Host`.
pub(crate) const HOSTS: &[&[u8]] = &[
    b"",
    b"Host:\r\n",
    b"Host: \r\n",
    b"Host: 169.254.169.254\r\nHost: 169.254.169.254\r\n",
    b"Host: 169.254.169.254\r\nHost: evil.example\r\n",
    b"Host: evil.example\r\nHost: 169.254.169.254\r\n",
    b"Host: evil.example\r\n",
    b"Host: localhost\r\n",
    b"Host: 127.0.0.1\r\n",
    b"Host: instance-data\r\n",
    b"Host: instance-data.ec2.internal\r\n",
    b"Host: metadata.google.internal\r\n",
    // names that an attacker's resolver maps to the metadata address
    b"Host: 169.254.169.254.nip.io\r\n",
    b"Host: 7f000001.a9fea9fe.rbndr.us\r\n",
    b"Host: 169.254.169.254.evil.example\r\n",
    b"Host: 169-254-169-254.evil.example\r\n",
    // ports
    b"Host: 169.254.169.254:8080\r\n",
    b"Host: 169.254.169.254:443\r\n",
    b"Host: 169.254.169.254:\r\n",
    b"Host: 169.254.169.254:080\r\n",
    b"Host: 169.254.169.254:+80\r\n",
    b"Host: 169.254.169.254:80:80\r\n",
    b"Host: 169.254.169.254:80 \x0b\r\n",
    // other notations of the same number
    b"Host: 2852039166\r\n",
    b"Host: 0xa9fea9fe\r\n",
    b"Host: 0xa9.0xfe.0xa9.0xfe\r\n",
    b"Host: 0251.0376.0251.0376\r\n",
    b"Host: 169.254.43518\r\n",
    b"Host: 169.16689662\r\n",
    b"Host: 169.254.169.0254\r\n",
    b"Host: 169.254.169.254.\r\n",
    b"Host: [169.254.169.254]\r\n",
    b"Host: [::ffff:169.254.169.254]\r\n",
    b"Host: [::ffff:a9fe:a9fe]\r\n",
    b"Host: ::ffff:169.254.169.254\r\n",
    b"Host: fd00:ec2::254\r\n",
    b"Host: [fd00:ec2::254\r\n",
    b"Host: [fd00:ec2::254]81\r\n",
    b"Host: [fd00:ec2::254]:81\r\n",
    b"Host: [fd00:ec2::254%25eth0]\r\n",
    // neighboring addresses
    b"Host: 169.254.170.77\r\n",
    b"Host: 169.254.170.2\r\n",
    b"Host: 169.254.169.253\r\n",
    b"Host: 0.0.0.0\r\n",
    // parts of a URL
    b"Host: user@169.254.169.254\r\n",
    b"Host: 169.254.169.254@evil.example\r\n",
    b"Host: http://169.254.169.254\r\n",
    b"Host: 169.254.169.254/latest\r\n",
    b"Host: 169.254.169.254#evil.example\r\n",
    b"Host: 169.254.169.254, evil.example\r\n",
    b"Host: 169.254.169.254 evil.example\r\n",
    b"Host: evil.example 169.254.169.254\r\n",
    b"Host: 169.254.169.254\0\r\n",
    b"Host: 169.254.169.254\0.evil.example\r\n",
    b"Host: \"169.254.169.254\"\r\n",
    "Host: \u{ff11}\u{ff16}\u{ff19}.254.169.254\r\n".as_bytes(),
    "Host: 169\u{3002}254\u{3002}169\u{3002}254\r\n".as_bytes(),
    b"Host : 169.254.169.254\r\n",
    b" Host: 169.254.169.254\r\n",
    b"Host\t: 169.254.169.254\r\n",
    b"Host: evil.example\r\nX-Forwarded-Host: 169.254.169.254\r\n",
];

/// Header lines after the right `Host`: what a browser or a proxy adds when an attacker makes it send a request.
pub(crate) const RELAYED: &[&[u8]] = &[
    b"X-aws-ec2-metadata-token: {token}\r\nOrigin: http://evil.example\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\norigin: http://169.254.169.254\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nOrigin: null\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nOrigin:\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nSec-Fetch-Site: cross-site\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nSec-Fetch-Site: none\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nsec-fetch-mode: cors\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nSEC-FETCH-DEST: document\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nSec-Fetch-User: ?1\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nSec-Fetch-Storage-Access: active\r\n",
    b"X-Forwarded-For: 10.0.0.9\r\n",
    b"Forwarded: for=10.0.0.9\r\n",
    b"Via: 1.1 proxy\r\n",
    b"X-Real-IP: 10.0.0.9\r\n",
];

/// Header lines that replace the session token.
pub(crate) const TOKENS: &[&[u8]] = &[
    b"",
    b"X-aws-ec2-metadata-token:\r\n",
    b"X-aws-ec2-metadata-token: \t \r\n",
    b"X-aws-ec2-metadata-token: {foreign}\r\n",
    b"X-aws-ec2-metadata-token: {sibling}\r\n",
    b"X-aws-ec2-metadata-token: {expired}\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nX-aws-ec2-metadata-token: {token}\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nx-aws-ec2-metadata-token: {foreign}\r\n",
    b"X-aws-ec2-metadata-token: {foreign}\r\nX-AWS-EC2-METADATA-TOKEN: {token}\r\n",
    b"X-aws-ec2-metadata-token: {token}\r\nX-aws-ec2-metadata-token:\r\n",
    b"X-aws-ec2-metadata-token: {token}, {token}\r\n",
    b"X-aws-ec2-metadata-token: {token},{foreign}\r\n",
    b"X-aws-ec2-metadata-token: {token}A\r\n",
    b"X-aws-ec2-metadata-token: A{token}\r\n",
    b"X-aws-ec2-metadata-token: {token}==\r\n",
    b"X-aws-ec2-metadata-token: \"{token}\"\r\n",
    b"X-aws-ec2-metadata-token: Bearer {token}\r\n",
    b"X-aws-ec2-metadata-token: {token}\0\r\n",
    b"X-aws-ec2-metadata-token: {token}%00\r\n",
    b"X-aws-ec2-metadata-token: {token}\xff\r\n",
    b"X-aws-ec2-metadata-token : {token}\r\n",
    b"X-aws-ec2-metadata-token\t: {token}\r\n",
    b"X-aws-ec2-metadata-token {token}\r\n",
    b"X-aws-ec2-metadata-token:\r\n {token}\r\n",
    b"X_aws_ec2_metadata_token: {token}\r\n",
    b"X-aws-ec2-metadata-tokens: {token}\r\n",
    b"X-aws-ec2-metadata: {token}\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n",
    b"Authorization: {token}\r\n",
    b"Cookie: X-aws-ec2-metadata-token={token}\r\n",
    b"Metadata-Flavor: Google\r\n",
    b"Metadata: true\r\n",
    // never sealed: the right length and the right alphabet
    b"X-aws-ec2-metadata-token: AQAEAIXkhdOR3sIqAVRdg0mVAdHYRr_fkfFDU7SDzH9whlWZJwANKg==\r\n",
    b"X-aws-ec2-metadata-token: ========================================================\r\n",
    b"X-aws-ec2-metadata-token: ../../../../../../../../../../../../../../../../../../..\r\n",
];

/// Tokens of many lengths that podrole never issued.
pub(crate) fn garbage_tokens() -> impl Iterator<Item = Vec<u8>> {
    let lengths = [1, 2, 28, 53, 54, 55, 56, 57, 58, 64, 70, 71, 112, 1000, 4000];
    lengths.into_iter().map(|length| format!("X-aws-ec2-metadata-token: {}\r\n", "A".repeat(length)).into_bytes())
}

/// The rest of a request that has the right host and a valid token: headers, the empty line, and what follows it.
pub(crate) const FRAMING: &[&[u8]] = &[
    // lengths
    b"Content-Length: 5\r\n\r\nhello",
    b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    b"Content-Length: 0, 0\r\n\r\n",
    b"Content-Length: +0\r\n\r\n",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 00\r\n\r\n",
    b"Content-Length: 0x0\r\n\r\n",
    b"Content-Length: 1e0\r\n\r\nx",
    b"Content-Length:\r\n\r\n",
    b"Content-Length: zero\r\n\r\n",
    b"Content-Length: 18446744073709551616\r\n\r\n",
    b"Content-Length: 99999999999999999999999\r\n\r\n",
    b"Content-Length : 5\r\n\r\nhello",
    b"Content-Length\x0b: 5\r\n\r\nhello",
    // encodings
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: identity\r\n\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\r\n\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"tRANSFER-eNCODING: chunked\r\n\r\nffffffffffffffff\r\nx",
    // a request inside a request
    b"Content-Length: 43\r\n\r\nGET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nGET {creds} HTTP/1.1\r\nX: y",
    // lines that are not headers
    b"X: y\r\n folded\r\n\r\n",
    b"X: y\r\n\tTransfer-Encoding: chunked\r\n\r\n",
    b"X : y\r\n\r\n",
    b"X\r\n\r\n",
    b": y\r\n\r\n",
    b"X y: z\r\n\r\n",
    b"X(y): z\r\n\r\n",
    b"X: a\0b\r\n\r\n",
    b"X: a\rb\r\n\r\n",
    b"X: a\x01b\r\n\r\n",
    b"X: a\x7fb\r\n\r\n",
    b"\0X: y\r\n\r\n",
    "X\u{e9}: y\r\n\r\n".as_bytes(),
    // other protocols on the same connection
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"Upgrade: TLS/1.0\r\n\r\n",
    b"upgrade: foo\r\n\r\n",
];

/// Oversized heads.
pub(crate) fn oversized() -> impl Iterator<Item = Vec<u8>> {
    let long = iter::once(format!("X: {}\r\n\r\n", "a".repeat(9000)));
    let longer = iter::once(format!("X: {}\r\n\r\n", "a".repeat(100_000)));
    let name = iter::once(format!("{}: y\r\n\r\n", "X".repeat(9000)));
    let many = [33, 100, 1000].map(|n| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>() + "\r\n");
    let same = iter::once("X: y\r\n".repeat(200) + "\r\n");
    long.chain(longer).chain(name).chain(many).chain(same).map(String::into_bytes)
}

/// Odd requests that may be answered, because the response contains only what the sender may get anyway; each with the
/// reason why it is harmless.
///
/// All of them carry the caller's own valid token, request the one right path with the right method, and are the last
/// request on their connection. So no other caller's answer can reach them, and there is no backend that could
/// interpret them differently. The array's length is fixed here, so that adding a request is a deliberate decision.
pub(crate) const ACCEPTED: [(&[u8], &str); 17] = [
    (
        b"GET {creds} HTTP/1.1\nHost: 169.254.169.254\nX-aws-ec2-metadata-token: {token}\n\n",
        "a bare LF ends a line as CRLF does; no backend could interpret it differently",
    ),
    (
        b"\r\nGET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
        "HTTP allows empty lines before a request",
    ),
    (
        b"GET {creds}#fragment HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
        "a fragment is not part of the requested resource",
    ),
    (
        b"GET {creds}#/../../user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
        "a fragment is not part of the requested resource",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254:80\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
        "it was sent to port 80",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: [fd00:ec2::254]:80\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
        "the service's other address",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token:\t{token}  \r\n\r\n",
        "blanks around a value are not part of it",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nX-Forwarded-For: 10.0.0.9\r\n\r\n",
        "a forwarder could not have obtained the token, and headers do not identify the caller",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nConnection: X-aws-ec2-metadata-token\r\n\r\n",
        "podrole does not forward requests, so it strips nothing",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nConnection: keep-alive\r\n\r\n",
        "keep-alive is requested, but the connection is closed anyway",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nExpect: 100-continue\r\n\r\n",
        "there is no body to continue with",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nRange: bytes=0-9\r\nIf-None-Match: *\r\n\r\n",
        "podrole serves no ranges and caches no responses",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nX-HTTP-Method-Override: PUT\r\nX-Original-URL: /latest/user-data\r\nX-Rewrite-URL: /latest/user-data\r\n\r\n",
        "only the request line determines the resource",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nContent-Length: 0\r\n\r\n",
        "explicitly no body",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "explicitly no body, twice: hyper drops the duplicate, and no backend could interpret it differently",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a different header's name; podrole never reads beyond the head",
    ),
    (
        b"GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\npodns: kube-system\r\npodname: other\r\nX-Client-IP: 10.0.0.9\r\n\r\n",
        "the request never determines the caller's identity",
    ),
];
