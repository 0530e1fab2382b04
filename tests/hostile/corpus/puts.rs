//! The PUT request for a session token: its lifetime, its path, and requests that were forwarded.

/// Invalid lifetimes, including a missing header.
const LIFETIMES: &[&[u8]] = &[
    b"",
    b"X-aws-ec2-metadata-token-ttl-seconds:\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 0\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: -1\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: +5\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 21601\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: abc\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 4294967296\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 4294967297\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 18446744073709551617\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 99999999999999999999999999999999999999\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 6 0\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 60.0\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 6e1\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 0x3c\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 60s\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: \"60\"\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 60,60\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 60;\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 1_000\r\n",
    "X-aws-ec2-metadata-token-ttl-seconds: \u{ff16}\u{ff10}\r\n".as_bytes(),
    "X-aws-ec2-metadata-token-ttl-seconds: \u{661}\r\n".as_bytes(),
    b"X-aws-ec2-metadata-token-ttl-seconds: 60\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds: 60\r\nx-aws-ec2-metadata-token-ttl-seconds: 21601\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds : 60\r\n",
    b"X-aws-ec2-metadata-token-ttl-seconds:\r\n 60\r\n",
    b"X_aws_ec2_metadata_token_ttl_seconds: 60\r\n",
    b"X-aws-ec2-metadata-token-ttl: 60\r\n",
    b"X-aws-ec2-metadata-token: 60\r\n",
    b"X-Google-Metadata-Request: True\r\n",
];

/// Header lines that show that the request was forwarded.
const RELAYS: &[&[u8]] = &[
    b"X-Forwarded-For: 10.0.0.9\r\n",
    b"X-Forwarded-For: 127.0.0.1\r\n",
    b"X-Forwarded-For: 169.254.169.254\r\n",
    b"X-Forwarded-For: unknown\r\n",
    b"X-Forwarded-For:\r\n",
    b"X-Forwarded-For: \t\r\n",
    b"x-forwarded-for: 10.0.0.9\r\n",
    b"X-FORWARDED-FOR: 10.0.0.9\r\n",
    b"x-FoRwArDeD-fOr: 10.0.0.9\r\n",
    b"X-Forwarded-For: a\r\nX-Forwarded-For: b\r\n",
    b"X-Forwarded-For: \xff\r\n",
    b"X-Forwarded-For : 10.0.0.9\r\n",
    b"X-Forwarded-For:\r\n 10.0.0.9\r\n",
    b"Connection: X-Forwarded-For\r\nX-Forwarded-For: 10.0.0.9\r\n",
    b"Forwarded: for=10.0.0.9\r\n",
    b"forwarded:\r\n",
    b"Via: 1.1 proxy\r\n",
    b"X-Real-IP: 10.0.0.9\r\n",
    b"Origin: http://evil.example\r\n",
    b"Sec-Fetch-Site: same-origin\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\nContent-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: h2c\r\n",
    b"Host: 169.254.169.254\r\n",
    b"Host: evil.example\r\n",
];

/// Whole requests.
pub(crate) const WHOLE: &[&[u8]] = &[
    // paths
    b"PUT /latest/api/token/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT //latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest//api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/./api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/api/%74oken HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/api/token? HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/api/token;x HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/api/Token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest\\api\\token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /2021-03-23/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /1.0/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT http://169.254.169.254/latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    // methods
    b"POST /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PATCH /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"DELETE /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"OPTIONS /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nAccess-Control-Request-Method: PUT\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"GET /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-HTTP-Method-Override: PUT\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"HEAD /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"put /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    b"PUT /latest/api/token HTTP/1.1\r\nHost: evil.example\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
];

/// PUTs with an invalid lifetime.
pub(crate) fn lifetimes() -> impl Iterator<Item = Vec<u8>> {
    LIFETIMES.iter().map(|line| put(line))
}

/// PUTs that would be valid without one header line.
pub(crate) fn relayed() -> impl Iterator<Item = Vec<u8>> {
    RELAYS.iter().map(|line| put(&[b"X-aws-ec2-metadata-token-ttl-seconds: 60\r\n", *line].concat()))
}

fn put(lines: &[u8]) -> Vec<u8> {
    [b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n", lines, b"\r\n"].concat()
}
