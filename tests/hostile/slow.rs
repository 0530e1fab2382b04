//! Requests that arrive in pieces, never end, or arrive two at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::{Connection, Target};
use podrole_lab::world::Trial;

use crate::corpus::CREDENTIALS;
use crate::support::{TEAM, WEB, fill, path_of, ready, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("slow_heads_are_cut_within_a_bound", slow_heads),
    Trial::new("a_head_in_many_pieces_is_served", pieces),
    Trial::new("a_second_request_on_a_connection_is_never_answered", pipelined),
];

/// The daemon's timeout for a head is two seconds.
const BOUND: Duration = Duration::from_secs(4);
/// One byte at this interval must not keep a connection open.
const DRIP: Duration = Duration::from_millis(250);

fn slow_heads() -> Result<()> {
    let rig = ready(&[])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    let head =
        format!("GET {} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n", path_of(WEB));
    // Nothing at all; a beginning; everything except the end.
    let begin = Instant::now();
    let starts = ["", "G", "GET /latest/", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n", &head];
    let mut open: Vec<Connection<'_>> = Vec::new();
    for start in starts {
        let connection = app.open(&Target::v4())?;
        connection.send(start.as_bytes())?;
        open.push(connection);
    }
    for (connection, start) in open.iter().zip(starts) {
        let received = connection.read(BOUND.saturating_sub(begin.elapsed()))?;
        let said = String::from_utf8_lossy(&received.bytes).into_owned();
        ensure!(begin.elapsed() < BOUND, "{start:?} kept a connection for {:?}: {received:?}", begin.elapsed());
        ensure!(!said.contains(" 200 ") && !said.contains("AccessKeyId"), "{start:?} was answered: {said}");
    }
    drop(open);
    drips(&app.open(&Target::v4())?)?;
    // The node is not affected.
    ensure!(app.credentials()?.role == WEB);
    Ok(())
}

/// Sends a header line one byte at a time.
fn drips(connection: &Connection<'_>) -> Result<()> {
    let begin = Instant::now();
    connection.send(b"GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX: ")?;
    while begin.elapsed() < BOUND {
        // An error also shows that the connection was cut.
        if connection.send(b"y").is_err() || connection.is_ended(DRIP)? {
            return Ok(());
        }
    }
    anyhow::bail!("a head that never ends kept a connection open for {:?}", begin.elapsed())
}

fn pieces() -> Result<()> {
    let rig = ready(&[])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    let head =
        format!("GET {} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n", path_of(WEB));
    let connection = app.open(&Target::v4())?;
    for piece in head.as_bytes().chunks(7) {
        connection.send(piece)?;
    }
    let answer = connection.response(BOUND)?;
    ensure!(answer.status == 200 && answer.json()?["Code"] == "Success", "{answer:?}");
    Ok(())
}

fn pipelined() -> Result<()> {
    let rig = ready(&[])?;
    let (pod, other) = (web(&rig)?, rig.pod_with_role(TEAM, "other", "other-role")?);
    let app = pod.agent("app")?;
    let fill = fill(&pod, &app, &other)?;
    let put =
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    let get = |role: &str, token: &str, more: &str| {
        format!(
            "GET {CREDENTIALS}{role} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {token}\r\n{more}\r\n"
        )
    };
    let (own, theirs) = (get(WEB, &fill.token, ""), get("other-role", &fill.foreign, ""));
    let keep = get(WEB, &fill.token, "Connection: keep-alive\r\n");
    let bad = "GET /latest/user-data? HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    let pairs = [
        ([put, &own], 200),
        ([put, put], 200),
        ([&own, &theirs], 200),
        ([&keep, &own], 200),
        ([&own, "GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n"], 200),
        ([bad, &own], 400),
        ([&theirs, &own], 401),
    ];
    for (pair, status) in pairs {
        for _ in 0..20 {
            let answer = app.raw(pair.concat().as_bytes())?;
            let answers = answer.raw.windows(7).filter(|at| at == b"HTTP/1.").count();
            ensure!(answers == 1 && answer.status == status, "{pair:?}: {answers} answers: {answer:?}");
            ensure!(answer.header("Connection") == Some("close"), "{pair:?}: {answer:?}");
        }
        // Also if the second request arrives after the answer.
        let connection = app.open(&Target::v4())?;
        connection.send(pair[0].as_bytes())?;
        ensure!(connection.response(BOUND)?.status == status, "{pair:?}");
        let late = connection.send(pair[1].as_bytes()).is_err() || connection.read(BOUND)?.bytes.is_empty();
        ensure!(late, "{pair:?}: a second answer");
    }
    Ok(())
}
