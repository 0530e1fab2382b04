use http::Request;

use super::*;

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("Host", "169.254.169.254");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn route_of(head: &Parts) -> Result<Route, Rejection> {
    classify(head).map(|classified| classified.route)
}

fn get(path: &str) -> Result<Route, Rejection> {
    route_of(&request("GET", path, &[]))
}

fn credentials(role: &str, extended: bool) -> Route {
    Route::Credentials { role: role.into(), extended }
}

#[test]
fn every_canonical_spelling() {
    for (path, route) in [
        ("/latest/meta-data/iam/security-credentials", Route::RoleList { extended: false }),
        ("/latest/meta-data/iam/security-credentials/", Route::RoleList { extended: false }),
        ("/2016-09-02/meta-data/iam/security-credentials/", Route::RoleList { extended: false }),
        ("/1.0/meta-data/iam/security-credentials/", Route::RoleList { extended: false }),
        ("/2021-03-23/meta-data/iam/security-credentials/", Route::RoleList { extended: false }),
        ("/latest/meta-data/iam/security-credentials/web", credentials("web", false)),
        ("/latest/meta-data/iam/security-credentials/web/", credentials("web", false)),
        ("/latest/meta-data/iam/security-credentials/a_b+c=d,e.f@g-h", credentials("a_b+c=d,e.f@g-h", false)),
        ("/latest/meta-data/iam/security-credentials-extended", Route::RoleList { extended: true }),
        ("/latest/meta-data/iam/security-credentials-extended/", Route::RoleList { extended: true }),
        ("/latest/meta-data/iam/security-credentials-extended/web", credentials("web", true)),
        ("/latest/meta-data/iam/info", Route::IamInfo),
        ("/latest/meta-data/iam", Route::Listing(Listing::Iam)),
        ("/latest/meta-data/iam/", Route::Listing(Listing::Iam)),
        ("/latest/meta-data/placement/region", Route::Fact(Fact::Region)),
        ("/latest/meta-data/placement/availability-zone/", Route::Fact(Fact::Zone)),
        ("/latest/dynamic/instance-identity/document", Route::IdentityDocument),
        ("/", Route::Listing(Listing::Versions)),
        ("/latest", Route::Listing(Listing::Latest)),
        ("/latest/", Route::Listing(Listing::Latest)),
        ("/latest/meta-data", Route::Listing(Listing::MetaData)),
        ("/latest/meta-data/", Route::Listing(Listing::MetaData)),
    ] {
        assert_eq!(get(path), Ok(route), "{path}");
    }
}

#[test]
fn what_pods_never_see() {
    for path in [
        "/latest/user-data",
        "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
        "/latest/meta-data/identity-credentials/ec2/info",
        "/latest/dynamic/instance-identity/pkcs7",
        "/latest/dynamic/instance-identity/signature",
        "/latest/dynamic/instance-identity/document/",
        "/latest/meta-data/instance-id",
        "/latest/meta-data/iam/security-credentials/a/b",
        "/latest/meta-data/iam/security-credentials-other/",
        "/latest/meta-data/iam/Security-Credentials/",
        "/LATEST/meta-data/iam/security-credentials/",
        "/2016-09-03/meta-data/iam/security-credentials/",
        "/meta-data/iam/security-credentials/",
        "/latest/api/token/",
        "/latest/meta-data/managed-ssh-keys/",
    ] {
        assert_eq!(get(path), Ok(Route::Unknown), "{path}");
    }
}

#[test]
fn paths_that_need_thought_are_refused() {
    for path in [
        "//latest/meta-data/iam/security-credentials/",
        "/latest//meta-data/iam/security-credentials/",
        "/latest/meta-data/iam/security-credentials//",
        "/latest/./meta-data/iam/security-credentials/",
        "/latest/../latest/meta-data/iam/security-credentials/",
        "/latest/meta-data/iam/security%2dcredentials/",
        "/latest/meta-data/iam%2fsecurity-credentials/",
        "/latest/meta-data/iam/security-credentials/%2e%2e/",
        "/latest/meta-data/iam/security-credentials/;x",
        "/latest/meta-data/iam/security-credentials/?x=1",
        "/latest/meta-data/iam/security-credentials/web?",
    ] {
        assert!(matches!(get(path), Err(Rejection::Malformed(_))), "{path}: {:?}", get(path));
    }
}

#[test]
fn the_token_put() {
    let put = |path: &str, headers: &[(&str, &str)]| route_of(&request("PUT", path, headers));
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    assert_eq!(put("/latest/api/token", &[(ttl, "21600")]), Ok(Route::Token { ttl: 21_600 }));
    assert_eq!(put("/latest/api/token", &[(ttl, "1")]), Ok(Route::Token { ttl: 1 }));
    for bad in ["0", "-1", "21601", "abc", "", " ", "1.5", "+5", "99999999999999999999"] {
        assert!(matches!(put("/latest/api/token", &[(ttl, bad)]), Err(Rejection::Malformed(_))), "{bad:?}");
    }
    assert!(matches!(put("/latest/api/token", &[]), Err(Rejection::Malformed(_))));
    assert!(matches!(put("/latest/api/token", &[(ttl, "60"), (ttl, "70")]), Err(Rejection::Malformed(_))));
    for name in ["X-Forwarded-For", "x-forwarded-for", "Forwarded", "Via"] {
        assert!(matches!(put("/latest/api/token", &[(ttl, "60"), (name, "")]), Err(Rejection::Forwarded(_))), "{name}");
    }
    for path in ["/latest/api/token/", "/2021-03-23/api/token", "/latest/meta-data/"] {
        assert_eq!(put(path, &[(ttl, "60")]), Err(Rejection::PutElsewhere), "{path}");
    }
}

#[test]
fn methods() {
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        assert_eq!(route_of(&request(method, "/latest/api/token", &[])), Err(Rejection::Method { allow: "PUT" }));
    }
    for method in ["POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"] {
        let refused = route_of(&request(method, "/latest/meta-data/", &[]));
        assert_eq!(refused, Err(Rejection::Method { allow: "GET, HEAD" }), "{method}");
    }
    assert_eq!(route_of(&request("HEAD", "/latest/meta-data/iam/info", &[])), Ok(Route::IamInfo));
}

#[test]
fn hosts() {
    for host in ["169.254.169.254", "169.254.169.254:80", "[fd00:ec2::254]", "[fd00:ec2::254]:80", "[FD00:EC2:0::254]"]
    {
        assert!(route_of(&request("GET", "/latest/", &[("Host", host)])).is_ok(), "{host}");
    }
    for host in [
        "example.com",
        "169.254.169.254:8080",
        "169.254.169.254.nip.io",
        "localhost",
        "",
        "[fd00:ec2::254]x",
        "[169.254.169.254]",
        "fd00:ec2::254",
        "169.254.169.254:",
    ] {
        assert_eq!(
            route_of(&request("GET", "/latest/", &[("Host", host)])),
            Err(Rejection::Forwarded("another Host")),
            "{host:?}"
        );
    }
    let two = request("GET", "/latest/", &[("Host", "169.254.169.254"), ("Host", "169.254.169.254")]);
    assert!(matches!(route_of(&two), Err(Rejection::Malformed(_))));
}

#[test]
fn smuggling_and_browsers() {
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "identity"),
        ("Content-Length", "5"),
        ("Content-Length", "00"),
        ("Upgrade", "h2c"),
    ] {
        assert!(
            matches!(route_of(&request("GET", "/latest/", &[(name, value)])), Err(Rejection::Malformed(_))),
            "{name}"
        );
    }
    for (name, value) in [("Origin", "http://evil"), ("Sec-Fetch-Mode", "cors")] {
        assert!(
            matches!(route_of(&request("GET", "/latest/", &[(name, value)])), Err(Rejection::Forwarded(_))),
            "{name}"
        );
    }
    assert!(matches!(get("http://169.254.169.254/latest/"), Err(Rejection::Malformed(_))));
}

#[test]
fn session_tokens() {
    let token = |headers: &[(&str, &str)]| {
        session_token(&request("GET", "/", headers).headers).map(|t| t == SessionToken::Absent)
    };
    assert_eq!(token(&[]), Ok(true));
    assert_eq!(token(&[("X-aws-ec2-metadata-token", "abc")]), Ok(false));
    assert_eq!(token(&[("X-AWS-EC2-METADATA-TOKEN", "abc"), ("X-Forwarded-For", "1")]), Ok(false));
    assert!(token(&[("X-aws-ec2-metadata-token", "a"), ("x-aws-ec2-metadata-token", "b")]).is_err());
    assert!(token(&[("X-Forwarded-For", "10.0.0.1")]).is_err());
}

proptest::proptest! {
    #[test]
    fn a_credential_route_has_a_canonical_path(path in "/(latest|1.0|LATEST|\\.|)(/|//|/\\./|%2f)(meta-data|Meta-Data)/iam/security-credentials(-extended)?(/|//|/[a-z%.;/]{0,4})?") {
        if path.parse::<http::Uri>().is_ok()
            && let Ok(Route::RoleList { .. } | Route::Credentials { .. }) = get(&path)
        {
            let canonical = regex::Regex::new("^/(latest|1\\.0)/meta-data/iam/security-credentials(-extended)?(/|/[a-z.]+/?)?$").unwrap();
            proptest::prop_assert!(canonical.is_match(&path), "{}", path);
        }
    }
}
