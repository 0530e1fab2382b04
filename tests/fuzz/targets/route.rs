//! The head of a request: credentials and tokens are served only for the canonical spelling of their paths.
#![no_main]

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use libfuzzer_sys::{Corpus, fuzz_target};
use podrole::imds::{Classified, MAX_TTL, Route, classify};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(head) = head(data) else { return Corpus::Reject };
    let tokens = head.headers.get_all("x-aws-ec2-metadata-token").iter().count();
    let classified = classify(&head).map(|Classified { route, token }| {
        assert!(token.is_err() || tokens <= 1);
        route
    });
    match classified {
        Ok(Route::Credentials { role, extended }) => {
            let twin = if extended { "-extended" } else { "" };
            let path = head.uri.path().split_once('/').and_then(|(_, rest)| rest.split_once('/'));
            let (version, rest) = path.expect("a path of several segments");
            let wanted = format!("meta-data/iam/security-credentials{twin}/{role}");
            assert!(rest == wanted || rest == format!("{wanted}/"), "{rest}");
            assert!(version == "latest" || version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
            assert!(role.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@-_".contains(&b)), "{role}");
            assert!(head.method == Method::GET || head.method == Method::HEAD);
            direct(&head);
        }
        Ok(Route::Token { ttl }) => {
            assert!((1..=MAX_TTL).contains(&ttl));
            assert!(head.method == Method::PUT && head.uri == "/latest/api/token");
            assert!(!head.headers.contains_key("x-forwarded-for"));
            direct(&head);
        }
        Ok(_) => direct(&head),
        Err(_) => {}
    }
    Corpus::Keep
});

/// Properties of every request that is not rejected.
fn direct(head: &Parts) {
    assert!(head.uri.query().is_none() && head.uri.authority().is_none() && head.uri.scheme().is_none());
    for name in ["transfer-encoding", "upgrade", "origin", "sec-fetch-site"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let hosts: Vec<&[u8]> = head.headers.get_all("host").iter().map(HeaderValue::as_bytes).collect();
    match hosts.as_slice() {
        [] => assert_eq!(head.version, Version::HTTP_10),
        [host] => assert!(host.starts_with(b"169.254.169.254") || host.starts_with(b"[")),
        _ => panic!("several hosts"),
    }
}

/// Parses `METHOD TARGET VERSION` and then one header per line. `None` if the `http` crate does not accept them.
fn head(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|b| *b == b'\n');
    let mut words = lines.next()?.splitn(3, |b| *b == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let uri = Uri::try_from(words.next()?).ok()?;
    let mut request = Request::new(());
    *request.version_mut() = match words.next() {
        Some(b"1.0") => Version::HTTP_10,
        Some(b"2") => Version::HTTP_2,
        Some(_) | None => Version::HTTP_11,
    };
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for line in lines {
        let colon = line.iter().position(|b| *b == b':')?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(HeaderName::from_bytes(&line[..colon]).ok()?, value);
    }
    Some(request.into_parts().0)
}
