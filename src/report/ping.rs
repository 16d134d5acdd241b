//! The URL that is asked for after each job, so that somebody elsewhere notices when none is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::pbs::tls;
use crate::sys::Url;
use crate::sys::http::{Client, Limit, Method, Request};

/// job-end holds the node's backup lock meanwhile.
const LIMIT: Duration = Duration::from_secs(10);

/// Nobody reads the answer.
const ANSWER: usize = 64 * 1024;

/// Asks for `url`, with `/fail` at the end of its path where something went wrong.
///
/// # Errors
/// Where there is no answer within 10 s, or one that is no success. The URL itself is told nowhere: whoever knows
/// it can speak in this node's name.
pub fn send(url: &str, well: bool) -> Result<()> {
    let url: Url = url.parse().map_err(|error| anyhow!("report.ping-url: {error}"))?;
    let asked = || -> Result<()> {
        let client = if url.tls {
            Client::tls(&url.host, url.port, tls::system_roots()?)
        } else {
            Client::plain(&url.host, url.port)
        };
        let path = if well { url.target() } else { url.below("fail").target() };
        let request =
            Request { method: Method::Get, path: &path, headers: &[], form: None, json: None };
        let limit = Limit { deadline: Instant::now() + LIMIT, body: ANSWER };
        match client.send(&request, limit)?.status {
            200..300 => Ok(()),
            status => bail!("it answers with status {status}"),
        }
    };
    asked().with_context(|| format!("the ping to {} did not arrive (report.ping-url)", url.host))
}
