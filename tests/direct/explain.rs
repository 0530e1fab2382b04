//! Compares `podrole explain` with the daemon's answers for every container, given the same objects and flags. One side goes through
//! the subcommand, the other through the watched objects, the metadata service and the policy.

#[path = "explain/cases.rs"]
mod cases;
#[path = "explain/sides.rs"]
mod sides;

use std::collections::BTreeMap;

use podrole_lab::effort::{EXPLAIN_CASES, EXPLAINED_BY_BINARY, seed};

use cases::Case;
use sides::{Answer, Files, by_binary, by_daemon, by_explain, run_binary};

/// The most cases that one of the changed flags may take to make a difference.
const CONTROLS: u64 = 250;

#[tokio::test(start_paused = true)]
async fn explain_says_what_the_daemon_decides() {
    let files = Files::new("same");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (cases, by_the_binary) = (EXPLAIN_CASES.count() as u64, EXPLAINED_BY_BINARY.count() as u64);
    for number in 0..cases {
        let case = Case::new(seed(), number);
        let daemon = by_daemon(&case).await;
        let path = files.write(&case);
        let explained = by_explain(&case.explain_flags(), &path);
        assert_eq!(explained, daemon, "case {number} of seed {}: {:#?}", seed(), case);
        if number % (cases / by_the_binary) == 0 {
            by_binary(&case, &path, &explained);
        }
        for answer in daemon.values() {
            *seen.entry(answer.name()).or_default() += 1;
        }
    }
    println!("{cases} cases, {} containers: {seen:?}", seen.values().sum::<usize>());
    // Every kind of answer must have been compared.
    for expected in [
        "allow",
        "AboveCeiling",
        "BadAllowList",
        "BadExternalId",
        "BadRole",
        "BadSessionName",
        "ContainerRolesRefused",
        "NamespaceNotPermitted",
        "NoRole",
        "OwnRole",
        "PodFinished",
        "container_unknown",
        "namespace_unknown",
        "service_account_unknown",
    ] {
        assert!(
            seen.get(expected).is_some_and(|count| *count >= EXPLAIN_CASES.at_least(5)),
            "{expected} was compared too rarely: {seen:?}"
        );
    }
}

/// Control: the comparison can fail. With any one flag set differently for `explain`, some answers differ.
#[tokio::test(start_paused = true)]
async fn a_flag_that_differs_is_noticed() {
    let files = Files::new("control");
    let changes: [(&str, &[&str]); 9] = [
        ("--base-role-arn", &["--base-role-arn=arn:aws:iam::111122223333:role/elsewhere/"]),
        ("--role-ceiling", &["--role-ceiling=arn:aws:iam::111122223333:role/team/*"]),
        ("--assume-role-arn", &["--assume-role-arn=arn:aws:iam::111122223333:role/web"]),
        ("--own-role", &["--own-role=arn:aws:iam::111122223333:role/web"]),
        ("--session-scope", &["--session-scope=service-account"]),
        ("--allow", &["--allow=shop=*"]),
        ("--require-allow", &["--require-allow=false"]),
        ("--container-roles", &["--container-roles=strict"]),
        ("--service-account-roles", &["--service-account-roles=true"]),
    ];
    let mut differences: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..CONTROLS {
        if changes.iter().all(|(flag, _)| differences.get(flag).is_some_and(|count| *count > 0)) {
            break;
        }
        let case = Case::new(seed(), number);
        let daemon: BTreeMap<String, Answer> = by_daemon(&case).await;
        let path = files.write(&case);
        for (flag, changed) in changes {
            let mut flags = case.explain_flags();
            flags.retain(|given| !given.starts_with(&format!("{flag}=")));
            flags.extend(changed.iter().map(|text| (*text).to_owned()));
            *differences.entry(flag).or_default() += usize::from(by_explain(&flags, &path) != daemon);
        }
    }
    println!("of at most {CONTROLS} cases, these differ: {differences:?}");
    for (flag, _) in changes {
        assert!(differences[flag] > 0, "{flag} makes no difference: {differences:?}");
    }
}

/// The binary reports all mistakes at once, one per line, with the right exit code.
#[test]
fn mistakes_are_reported_with_what_to_do() {
    let files = Files::new("mistakes");
    let missing = files.path("missing").display().to_string();
    let account = "--account=111122223333";
    for (args, environment, code, says) in [
        (&["web"][..], None, 64, &["--base-role-arn (or --account) is required"][..]),
        (&[account], None, 64, &["a pod is required", "--file"]),
        (
            &["web", "--account=12", "--own-role=x", "--role-ceiling=web", "--require-allow=yes"],
            Some("PODROLE_ALOW"),
            64,
            &[
                "--account: \"12\"",
                "--own-role: \"x\"",
                "--role-ceiling: \"web\"",
                "--require-allow: \"yes\"",
                "PODROLE_ALOW",
            ],
        ),
        (&["web", account, "--output=xml"], None, 64, &["xml", "text, json"]),
        (&[account, "--file", &missing], None, 3, &["cannot read", "missing"]),
        (&["web", account, "--kubeconfig", &missing], None, 3, &["cannot read kubeconfig", "missing"]),
    ] {
        let output = run_binary(args, environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(output.stdout.is_empty() && says.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    }
}
