//! Request lines: methods, targets and versions, and bytes that are not HTTP/1.1.

/// Request lines, each sent with the right host and a valid token.
pub(crate) const LINES: &[&[u8]] = &[
    // methods
    b"POST {creds} HTTP/1.1",
    b"DELETE {creds} HTTP/1.1",
    b"PATCH {creds} HTTP/1.1",
    b"OPTIONS {creds} HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"TRACE {creds} HTTP/1.1",
    b"PUT {creds} HTTP/1.1",
    b"QUERY {creds} HTTP/1.1",
    b"PROPFIND {creds} HTTP/1.1",
    b"get {creds} HTTP/1.1",
    b"Get {creds} HTTP/1.1",
    b"GETT {creds} HTTP/1.1",
    b"GET\0 {creds} HTTP/1.1",
    b" {creds} HTTP/1.1",
    b"CONNECT {creds} HTTP/1.1",
    b"CONNECT 169.254.169.254:80 HTTP/1.1",
    b"CONNECT 169.254.169.254 HTTP/1.1",
    b"CONNECT 127.0.0.1:9441 HTTP/1.1",
    // targets that are not paths
    b"GET http://169.254.169.254{creds} HTTP/1.1",
    b"GET HTTP://169.254.169.254{creds} HTTP/1.1",
    b"GET https://169.254.169.254{creds} HTTP/1.1",
    b"GET http://evil.example{creds} HTTP/1.1",
    b"GET http://user:password@169.254.169.254{creds} HTTP/1.1",
    b"GET http:{creds} HTTP/1.1",
    b"GET http:/{creds} HTTP/1.1",
    b"GET //169.254.169.254{creds} HTTP/1.1",
    b"GET file://{creds} HTTP/1.1",
    b"GET 169.254.169.254:80 HTTP/1.1",
    b"GET 169.254.169.254{creds} HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET @evil.example{creds} HTTP/1.1",
    // versions
    b"GET {creds} HTTP/0.9",
    b"GET {creds} HTTP/1.2",
    b"GET {creds} HTTP/1.10",
    b"GET {creds} HTTP/2.0",
    b"GET {creds} HTTP/2",
    b"GET {creds} HTTP/3",
    b"GET {creds} HTTP/11",
    b"GET {creds} HTTP/1,1",
    b"GET {creds} HTTP/01.1",
    b"GET {creds} HTTP/ 1.1",
    b"GET {creds} HTTP/1.1x",
    b"GET {creds} http/1.1",
    b"GET {creds} HTTPS/1.1",
    b"GET {creds} ICY/1.1",
    b"GET {creds} ",
    b"GET {creds}",
    // blanks
    b"GET  {creds} HTTP/1.1",
    b"GET\t{creds}\tHTTP/1.1",
    b"GET {creds}  HTTP/1.1",
    b"GET {creds} x HTTP/1.1",
    b" GET {creds} HTTP/1.1",
    b"GET\x0b{creds}\x0bHTTP/1.1",
    b"GET {creds} HTTP/1.1\r",
];

/// Whole requests.
pub(crate) const WHOLE: &[&[u8]] = &[
    // HTTP/0.9, where the response would be the bare body
    b"GET {creds}\r\n\r\n",
    b"GET {creds}\n\n",
    // other protocols
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\x16\x03\x01\0\xa5\x01\0\0\xa1\x03\x03{creds}\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    b"PROXY TCP4 10.0.0.9 169.254.169.254 4242 80\r\nGET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x09\xa9\xfe\xa9\xfe\x10\x92\0\x50GET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
    b"*1\r\n$4\r\nPING\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nHost: 169.254.169.254\r\n\r\n",
    // invalid line ends
    b"GET {creds} HTTP/1.1\rHost: 169.254.169.254\rX-aws-ec2-metadata-token: {token}\r\r\r\n\r\n",
    b"GET {creds} HTTP/1.1\n\rHost: 169.254.169.254\n\rX-aws-ec2-metadata-token: {token}\n\r\n\r\r\n\r\n",
    b"GET {creds} HTTP/1.1\0Host: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
    // a second request line in place of a header
    b"GET / HTTP/1.1\r\nGET {creds} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
    // HTTP/1.0 does not need a host, but a wrong one is still wrong
    b"GET {creds} HTTP/1.0\r\nHost: evil.example\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
];
