//! The URL to request after each job, so that an outside service notices a missing job.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::pbs::tls;
use crate::sys::Url;
use crate::sys::http::{Client, Limit, Method, Request};

/// Meanwhile job-end holds the node's backup lock.
const LIMIT: Duration = Duration::from_secs(10);

/// The answer's content is ignored.
const ANSWER: usize = 64 * 1024;

/// Requests `url`, with `/fail` at the end of its path if something went wrong.
///
/// # Errors
/// If there is no successful answer within 10 s. The URL never appears in the error: anybody who
/// knows it can send pings in this node's name.
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
