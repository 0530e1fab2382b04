use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

fn config(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let args = Cli::parse_from(std::iter::once("run").chain(flags.iter().copied())).run;
    Config::new(args, &environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

#[test]
fn defaults() {
    let config = config(&["--node-name", "n"], &[]).unwrap();
    assert_eq!((config.platform, config.identity), (Platform::Ec2, IdentityMode::Kernel));
    assert!(config.policy.require_allow && !config.imds_v1 && config.policy.ceiling.is_empty());
    assert_eq!((config.session_duration, config.ports), (Duration::from_secs(3600), 18181..=18188));
    assert_eq!(config.metadata_endpoint.host(), Some("169.254.169.254"));
}

#[test]
fn every_error_at_once() {
    let errors = config(
        &[
            "--platform=none",
            "--base-role-arn=x",
            "--role-ceiling=web-*",
            "--identity=magic",
            "--credential-source=web-identity",
            "--assume-role-arn=arn:x",
            "--session-duration=5m",
            "--allow=shop",
            "--allow==web",
            "--require-allow=yes",
            "--port-range=1-70000",
            "--admin-addr=here",
            "--log=podrole=loud=x",
        ],
        &[("PODROLE_NODENAME", "x"), ("PODROLE_SERVICE_HOST", "10.0.0.1"), ("PODROLE_PORT_80_TCP", "x")],
    )
    .unwrap_err();
    for flag in [
        "PODROLE_NODENAME",
        "--node-name",
        "--region",
        "--base-role-arn",
        "--role-ceiling",
        "--identity",
        "--credential-source",
        "--assume-role-arn",
        "--session-duration",
        "--allow: \"shop\"",
        "--allow: \"=web\"",
        "--require-allow",
        "--port-range",
        "--admin-addr",
        "--log",
    ] {
        assert!(errors.iter().any(|error| error.contains(flag)), "{flag}: {errors:#?}");
    }
    assert_eq!(errors.len(), 15, "{errors:#?}");
}

#[test]
fn the_metadata_service_is_the_environments_or_ec2s() {
    let endpoint = |text: &str| {
        let environment = HashMap::from([("AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned(), text.to_owned())]);
        let (uri, problem) = metadata_endpoint(&environment);
        (uri.to_string(), problem.is_none())
    };
    assert_eq!(endpoint("http://127.0.0.1:1338"), ("http://127.0.0.1:1338/".to_owned(), true));
    assert_eq!(endpoint("http://[fd00:ec2::254]"), ("http://[fd00:ec2::254]/".to_owned(), true));
    assert_eq!(endpoint(""), ("http://169.254.169.254/".to_owned(), true));
    for bad in ["https://10.0.0.1", "10.0.0.1", "/latest", "http://", "http://a b", "ftp://10.0.0.1"] {
        assert_eq!(endpoint(bad), ("http://169.254.169.254/".to_owned(), false), "{bad}");
        let errors = config(&["--node-name=n"], &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", bad)]).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "{errors:?}");
    }
}

#[test]
fn contradictions() {
    let chained = ["--node-name=n", "--assume-role-arn=arn:aws:iam::111122223333:role/hop", "--session-duration=2h"];
    assert_eq!(config(&chained, &[]).unwrap_err().len(), 1);
    assert_eq!(config(&["--node-name=n", "--metrics-addr=127.0.0.1:9441"], &[]).unwrap_err().len(), 1);
}

#[test]
fn lists() {
    let config = config(
        &[
            "--node-name=n",
            "--allow=shop=web-*,db",
            "--allow=shop=log",
            "--role-ceiling=arn:aws:iam::111122223333:role/*,arn:aws:iam::444455556666:role/x",
        ],
        &[("AWS_REGION", "eu-west-1")],
    )
    .unwrap();
    assert_eq!((config.policy.ceiling.len(), config.policy.allow.len()), (2, 1));
    assert_eq!(config.region.as_deref(), Some("eu-west-1"));
}

#[test]
fn brackets_are_right_around_either_kind_of_address() {
    for (text, expected) in [
        ("[10.0.0.5]:9442", Some("10.0.0.5:9442")),
        ("10.0.0.5:9442", Some("10.0.0.5:9442")),
        ("[fd00::5]:9442", Some("[fd00::5]:9442")),
        ("fd00::5:9442", None),
        ("[]:9442", None),
        ("[10.0.0.5]", None),
        ("[10.0.0.5]:", None),
    ] {
        let found = config(&["--node-name=n", &format!("--metrics-addr={text}")], &[]);
        let found = found.ok().and_then(|config| config.metrics_addr);
        assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{text}");
    }
}

#[test]
fn taints_are_keys_as_kubernetes_has_them() {
    for (text, good) in [
        ("podrole.dev/not-ready", true),
        ("not-ready", true),
        ("podrole.dev/not-ready:NoSchedule", false),
        ("podrole.dev/", false),
        ("/x", false),
        ("-x", false),
        ("", false),
    ] {
        assert_eq!(config(&["--node-name=n", &format!("--startup-taint={text}")], &[]).is_ok(), good, "{text}");
    }
}
