//! Reads the daemon's admin listener: requests and the text format of metrics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Timeout of a request. The listener is on loopback and answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `GET path`. Returns status and body.
pub(super) fn get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    stream.set_write_timeout(Some(PATIENCE)).context("set a timeout")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send the request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no end of headers in {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.with_context(|| format!("no status in {head:?}"))?, body.to_owned()))
}

/// The sum of the series of `name` that have all `labels`.
pub(super) fn sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let mut sum = 0.0;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
        let (of, rest) = series.split_once('{').unwrap_or((series, ""));
        let has = |(key, wanted): &(&str, &str)| rest.contains(&format!("{key}=\"{wanted}\""));
        if of == name && labels.iter().all(has) {
            sum += value.parse::<f64>().with_context(|| format!("not a number: {line}"))?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_label() -> Result<()> {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 5\nb 6.5\n";
        assert_eq!(sum(text, "a", &[])?, 7.0);
        assert_eq!(sum(text, "a", &[("y", "3"), ("x", "1")])?, 4.0);
        assert_eq!(sum(text, "a", &[("y", "9")])?, 0.0);
        assert_eq!(sum(text, "b", &[])?, 6.5);
        Ok(())
    }
}
