//! Tests that imports only point down, and that every side effect stays in the module that owns it.
//!
//! The tables below are the layers of `ARCHITECTURE.md`, and every file of `src/` is checked against them. The compiler cannot check
//! this, because inside a crate any module may import any other. Comments, strings and `#[cfg(test)]` items are ignored.

#[path = "layering/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use source::{paths, rust_files, tokens, without_tests};

/// The layers, from the bottom up. A module belongs to the longest entry that is a prefix of its path, so that a listed module
/// includes its submodules unless they are listed themselves.
const LAYERS: &[(&str, &[&str])] = &[
    ("L0", &["types", "clock", "backoff", "token_bucket"]),
    // The traits at side effects, with their types, which the pure modules may use.
    ("L1 (ports)", &["issuer", "redirect", "caller", "upstream", "events::sink"]),
    (
        PURE,
        &[
            "policy",
            "imds",
            "pods",
            "pods::index",
            "pods::convert",
            "redirect::ruleset",
            "cache::slot",
            "caller::cgroup_path",
            "events::schedule",
        ],
    ),
    (
        "L2",
        &[
            "issuer::sts",
            "issuer::base",
            "pods::watch",
            "pods::store",
            "pods::taint",
            "pods::read",
            "pods::access",
            "pods::client",
            "redirect::nft",
            "redirect::routing",
            "caller::netns",
            "caller::sock_diag",
            "caller::cgroup_tree",
            "caller::scanner",
            "caller::dir_watch",
            "caller::shortages",
            "caller::self_test",
            "upstream::client",
            "events::api",
            "state",
        ],
    ),
    ("L3", &["cache", "caller::resolver", "audit", "events", "explain"]),
    ("L4", &["service"]),
    ("L5", &["server", "admin"]),
    // In this order: a subcommand reads its configuration, which names a log format.
    ("L6", &["telemetry"]),
    ("L6", &["config"]),
    ("L6", &["cli"]),
    ("L7", &["app"]),
    ("bin", &["main"]),
];

/// The layer whose modules do not import each other.
const PURE: &str = "L1 (pure)";
/// Modules beside the layers. All layers from [`RAILS_FROM`] up may import them, and they import nothing above L0.
const RAILS: &[&str] = &["deadline", "line_writer", "metrics", "readiness", "tasks"];
const RAILS_FROM: &str = "L2";

/// Names that only some modules may use.
struct Rule {
    why: &'static str,
    /// Paths, which match themselves and everything below them. A `*` at the end matches the rest of a segment.
    names: &'static [&'static str],
    /// The modules that may use them, with their submodules.
    only: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule { why: "only issuer/ talks to AWS", names: AWS, only: &["issuer::sts", "issuer::base"] },
    Rule {
        why: "only pods/{client,watch,read,access,taint}.rs and events/api.rs talk to Kubernetes",
        names: &["kube"],
        only: KUBE,
    },
    Rule { why: "only metrics/ knows the metrics library", names: &["prometheus"], only: &["metrics"] },
    Rule { why: "only redirect/nft.rs starts processes", names: CHILDREN, only: &["redirect::nft"] },
    Rule { why: "only clock.rs reads a clock", names: CLOCKS, only: &["clock"] },
    Rule {
        why: "only config, cli and main read the environment and arguments",
        names: &["std::env"],
        only: &["config", "cli", "main"],
    },
    Rule { why: "unsafe is forbidden", names: &["unsafe"], only: &[] },
];

/// Names that no module up to and including the pure ones may use.
const IMPURE: &[&str] = &[
    "tokio",
    "tracing",
    "hyper",
    "hyper_util",
    "nix",
    "rustix",
    "socket2",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
];
/// Names that L3 and L4 must not use: they may wait and share state, but reach the outside only through L2.
const OUTSIDE: &[&str] = &[
    "hyper",
    "hyper_util",
    "nix",
    "rustix",
    "socket2",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
];
const AWS: &[&str] = &["aws_sdk_*", "aws_config", "aws_credential_types", "aws_smithy_*", "aws_types"];
const KUBE: &[&str] = &["pods::client", "pods::watch", "pods::read", "pods::access", "pods::taint", "events::api"];
const CHILDREN: &[&str] = &[
    "std::process::Command",
    "process::Command",
    "tokio::process",
    "std::os::unix::process",
    "nix::unistd::fork",
    "nix::unistd::exec*",
];
const CLOCKS: &[&str] = &[
    "SystemTime::now",
    "std::time::SystemTime::now",
    "std::time::Instant",
    "Timestamp::now",
    "jiff::Timestamp::now",
    "k8s_openapi::jiff::Timestamp::now",
    "ZonedDateTime::now",
    "jiff::ZonedDateTime::now",
    "k8s_openapi::jiff::Zoned::now",
    "rustix::time",
    "ClockId",
];

/// The most lines that a file of `src/` may have.
const MAX_SOURCE_LINES: usize = 400;
/// The most lines that any other Rust file may have.
const MAX_LINES: usize = 600;

#[test]
fn the_source_keeps_to_the_picture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = rust_files(&root.join("src"));
    assert!(sources.len() > 20, "only {} files found; this is not the source directory", sources.len());
    let mut violations = Vec::new();
    for path in &sources {
        let text = fs::read_to_string(path).expect("a source file is text");
        let name = path.strip_prefix(root.join("src")).expect("found below src").to_string_lossy().into_owned();
        violations.extend(check(&name, &text));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn files_are_short_and_none_is_called_mod() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests", "bench"].iter().flat_map(|directory| rust_files(&root.join(directory)));
    let mut violations = Vec::new();
    for path in files {
        let lines = fs::read_to_string(&path).expect("a source file is text").lines().count();
        let path = path.strip_prefix(root).expect("found below the root");
        violations.extend(check_file(path, lines));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// The positive control: each kind of violation is found, and correct source is not reported.
#[test]
fn violations_are_found() {
    let found: &[(&str, &str, &str)] = &[
        ("types/pod.rs", "use crate::policy::Rules;", "types (L0) imports policy"),
        ("policy.rs", "use crate::imds::Facts;", "policy (L1 (pure)) imports imds"),
        ("pods/index.rs", "use super::convert::ROLE;", "pods::index (L1 (pure)) imports pods::convert"),
        ("issuer.rs", "pub mod sts;\npub use sts::Sts;", "issuer (L1 (ports)) imports issuer::sts"),
        ("policy/decide.rs", "use crate::{types::PodUid, metrics::{self, Metrics}};", "imports metrics"),
        ("service/reply.rs", "fn f() -> crate::server::Limits { x }", "service (L4) imports server"),
        ("server.rs", "use crate::admin::Routes;", "server (L5) imports admin"),
        ("redirect/nft.rs", "use super::super::caller::sock_diag;", "redirect::nft (L2) imports caller::sock_diag"),
        ("metrics.rs", "use crate::cache::Miss;", "metrics (rail) imports cache"),
        ("news.rs", "", "news is in no layer"),
        ("imds/route.rs", "fn f() { tokio::spawn(g()); }", "imds names tokio::spawn"),
        ("types.rs", "use std::{io, fs::{self, File}};", "types names std::fs"),
        ("cache.rs", "use tokio::net::TcpStream;", "cache names tokio::net::TcpStream"),
        ("service.rs", "#[cfg(test)] mod tests { } fn f() { std::fs::read(p) }", "service names std::fs::read"),
        ("app.rs", "use kube::Client;", "app names kube::Client: only pods/"),
        ("events.rs", "use kube::Client;", "events names kube::Client: only pods/"),
        ("events/schedule.rs", "fn f() { tokio::spawn(g()); }", "events::schedule names tokio::spawn"),
        ("cache.rs", "use aws_sdk_sts::Client;", "cache names aws_sdk_sts::Client: only issuer/"),
        ("server.rs", "let c = prometheus::Counter::new();", "only metrics/"),
        ("audit.rs", "let now = SystemTime::now();", "only clock.rs"),
        ("app.rs", "use std::time::{Duration, Instant};", "app names std::time::Instant: only clock.rs"),
        ("app.rs", "let n = std::env::var(\"N\");", "only config, cli and main"),
        ("redirect/routing.rs", "use tokio::process::Command;", "only redirect/nft.rs"),
        ("caller/netns.rs", "fn f<'a>(c: char) { if c == '\"' { unsafe { g() } } }", "unsafe is forbidden"),
    ];
    for (file, source, expected) in found {
        let violations = check(file, source);
        assert!(violations.iter().any(|line| line.contains(expected)), "{file}: {source}\nreported: {violations:?}");
    }

    let clean: &[(&str, &str)] = &[
        (
            "types.rs",
            "// use crate::policy::Rules;\n/* unsafe /* tokio::x */ prometheus::y */ const A: &str = \"kube::Client\";",
        ),
        ("types.rs", "const A: &str = r#\"std::fs::read(\"x\")\"#; const B: char = '\\''; const C: u8 = b'\"';"),
        ("types.rs", "#[cfg(test)]\n#[allow(x)]\nmod tests { use std::fs; fn f() { crate::policy::g() } }"),
        ("cache/tests.rs", "use crate::server::Limits;"),
        ("policy/decide.rs", "use super::Rules; use crate::types::PodUid;"),
        ("cache/slot.rs", "use crate::issuer::IssueError;"),
        ("caller/netns.rs", "use super::{sock_diag::SockDiag, Kernel}; use crate::metrics::Metrics;"),
        ("main.rs", "use podrole::app; use std::env; use std::process::ExitCode;"),
        ("service.rs", "use tokio::time::Instant; fn f() { Instant::now(); self.kube(); x.unsafe_code() }"),
    ];
    for (file, source) in clean {
        assert_eq!(check(file, source), Vec::<String>::new(), "{file}: {source}");
    }

    assert_eq!(check_file(Path::new("src/a.rs"), MAX_SOURCE_LINES), None);
    assert!(check_file(Path::new("src/a.rs"), MAX_SOURCE_LINES + 1).is_some());
    assert_eq!(check_file(Path::new("tests/lab/src/a.rs"), MAX_LINES), None);
    assert!(check_file(Path::new("tests/lab/src/a.rs"), MAX_LINES + 1).is_some());
    assert!(check_file(Path::new("src/a/mod.rs"), 1).is_some());
}

// === rules ===

/// All violations in `text`, the source of the file `name` below `src/`.
fn check(name: &str, text: &str) -> Vec<String> {
    let file: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    if file.contains(&"tests") {
        return Vec::new();
    }
    let module = if file == ["lib"] { Vec::new() } else { file };
    let own = module.join("::");
    let unit = unit_of(&own);
    if unit.is_none() && !module.is_empty() {
        return vec![format!("{name}: {own} is in no layer; add it to LAYERS or RAILS, and to ARCHITECTURE.md")];
    }
    let unit = unit.unwrap_or("lib");
    let mut violations = BTreeSet::new();
    for path in paths(&without_tests(&tokens(text))) {
        let spelt = path.join("::");
        for rule in RULES {
            let allowed = rule.only.iter().any(|module| is_below(&own, module));
            if !allowed && rule.names.iter().any(|forbidden| is_named(&spelt, forbidden)) {
                violations.insert(format!("{name}: {unit} names {spelt}: {}", rule.why));
            }
        }
        for (from, to, forbidden, why) in
            [("L0", PURE, IMPURE, "these layers are pure"), ("L3", "L4", OUTSIDE, "only L2 does I/O")]
        {
            let within =
                rank(unit).is_some_and(|rank| (rank_of(from)..=rank_of(to)).contains(&rank)) && unit != "clock";
            if within && forbidden.iter().any(|forbidden| is_named(&spelt, forbidden)) {
                violations.insert(format!("{name}: {unit} names {spelt}: {why}"));
            }
        }
        if let Some(target) = resolve(&path, &module).and_then(|path| unit_of(&path))
            && !module.is_empty()
            && !may_import(unit, target)
        {
            violations.insert(format!("{name}: {unit} ({}) imports {target} ({})", layer(unit), layer(target)));
        }
    }
    violations.into_iter().collect()
}

fn check_file(path: &Path, lines: usize) -> Option<String> {
    if path.ends_with("mod.rs") {
        return Some(format!("{}: name the file of a module foo foo.rs, with its submodules in foo/", path.display()));
    }
    let limit = if path.starts_with("src") { MAX_SOURCE_LINES } else { MAX_LINES };
    (lines > limit).then(|| format!("{}: {lines} lines, the limit is {limit}", path.display()))
}

fn may_import(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    match (rank(from), rank(to)) {
        // Rails may import each other and L0.
        (None, None) => true,
        (None, Some(to)) => to == rank_of("L0"),
        (Some(from), None) => from >= rank_of(RAILS_FROM),
        (Some(below), Some(same)) if below == same => {
            below != rank_of(PURE) && from.split("::").next() == to.split("::").next()
        }
        (Some(from), Some(to)) => from > to,
    }
}

/// The entry of the tables that `path` belongs to.
fn unit_of(path: &str) -> Option<&'static str> {
    let all = LAYERS.iter().flat_map(|(_, modules)| modules.iter()).chain(RAILS);
    all.copied().filter(|module| is_below(path, module)).max_by_key(|module| module.len())
}

fn rank(unit: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&unit))
}

fn rank_of(layer: &str) -> usize {
    LAYERS.iter().position(|(name, _)| *name == layer).expect("a layer of the table")
}

fn layer(unit: &str) -> &'static str {
    rank(unit).map_or("rail", |rank| LAYERS[rank].0)
}

fn is_below(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_named(spelt: &str, forbidden: &str) -> bool {
    match forbidden.strip_suffix('*') {
        Some(beginning) => spelt.starts_with(beginning),
        None => is_below(spelt, forbidden),
    }
}

/// The path in this crate that `path` means in `module`; `None` if it belongs to another crate.
fn resolve(path: &[String], module: &[&str]) -> Option<String> {
    let mut at: Vec<&str> = match path.first()?.as_str() {
        "crate" | "podrole" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for segment in path {
        match segment.as_str() {
            "crate" | "podrole" | "self" => {}
            "super" => drop(at.pop()),
            name => at.push(name),
        }
    }
    Some(at.join("::"))
}
