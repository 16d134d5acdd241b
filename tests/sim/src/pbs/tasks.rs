//! Calls about tasks: their state, their log, their list.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::access::owns;
use super::api::{Failure, Outcome, Reply};
use super::params::{Kind, Params, optional};
use super::snapshot::{ordered, rfc3339};
use super::state::State;
use super::task::Task;
use super::upid::Upid;
use crate::http::{Answer, Body, Request};

fn may_see(state: &State, auth_id: &str, upid: &Upid) -> bool {
    owns(auth_id, &upid.auth_id) || state.access.has_any(auth_id, "/system/tasks", &["Sys.Audit"])
}

fn allowed(state: &State, auth_id: &str, text: &str) -> Result<Upid, Failure> {
    let upid = Upid::parse(text).filter(|upid| may_see(state, auth_id, upid));
    upid.ok_or_else(|| Failure::new(400, "task access not allowed"))
}

/// `GET /nodes/NODE/tasks/UPID/status`
pub fn status(
    state: &mut State,
    request: &Request,
    auth_id: &str,
    node: &str,
    upid: &str,
) -> Outcome {
    Params::read(request, &[("node", node), ("upid", upid)], &[])?;
    let parsed = allowed(state, auth_id, upid)?;
    let mut data = json!({
        "id": parsed.worker_id,
        "node": parsed.node,
        "pid": parsed.pid,
        "pstart": parsed.pstart,
        "starttime": parsed.starttime,
        "type": parsed.worker_type,
        "upid": upid,
        "user": parsed.user(),
    });
    if let Some(token) = parsed.token() {
        data["tokenid"] = json!(token);
    }
    match state.task(upid).map(|task| &task.end) {
        Some(None) => data["status"] = json!("running"),
        Some(Some((time, exitstatus))) => {
            data["status"] = json!("stopped");
            data["exitstatus"] = json!(exitstatus);
            if exitstatus != "unknown" {
                data["endtime"] = json!(time);
            }
        }
        None => {
            data["status"] = json!("stopped");
            data["exitstatus"] = json!("unknown");
        }
    }
    Ok(Reply::Data(data))
}

/// The requested number of entries: 50 by default; 0 means all.
fn limit(params: &Params) -> usize {
    match usize::try_from(params.int("limit").unwrap_or(50)).unwrap_or(50) {
        0 => usize::MAX,
        limit => limit,
    }
}

fn stamped(time: i64, line: &str) -> String {
    let stamp = rfc3339(time).replace('Z', "+00:00");
    format!("{stamp}: {line}")
}

/// `GET /nodes/NODE/tasks/UPID/log`
pub fn log(state: &mut State, request: &Request, auth_id: &str, node: &str, upid: &str) -> Outcome {
    let known = [
        optional("start", Kind::Int(0)),
        optional("limit", Kind::Int(0)),
        optional("test-status", Kind::Bool),
        optional("download", Kind::Bool),
    ];
    let params = Params::read(request, &[("node", node), ("upid", upid)], &known)?;
    let parsed = allowed(state, auth_id, upid)?;
    let Some(task) = state.task(upid) else {
        let text = "No such file or directory (os error 2)";
        return Err(Failure::new(400, text));
    };
    let lines: Vec<String> = task.log.iter().map(|(time, line)| stamped(*time, line)).collect();
    if params.flag("download") == Some(true) {
        return Ok(Reply::Other(download(&parsed, &lines)));
    }
    let start = usize::try_from(params.int("start").unwrap_or(0)).unwrap_or(0);
    let limit = limit(&params);
    // Lines count from 1: a start of 0 or 1 leaves none out.
    let shown = lines.iter().enumerate().skip(start.saturating_sub(1)).take(limit);
    let shown: Vec<Value> = shown.map(|(at, line)| json!({"n": at + 1, "t": line})).collect();
    let mut document = Map::new();
    document.insert("data".to_owned(), json!(shown));
    document.insert("total".to_owned(), json!(lines.len()));
    document.insert("success".to_owned(), json!(1));
    if params.flag("test-status") == Some(true) {
        document.insert("active".to_owned(), json!(task.end.is_none()));
    }
    let body = Value::Object(document).to_string().into_bytes();
    let answer = Answer::new(200, Body::Fixed(body));
    Ok(Reply::Other(answer.with_header("content-type", "application/json")))
}

fn download(upid: &Upid, lines: &[String]) -> Answer {
    let (node, worker_type) = (&upid.node, &upid.worker_type);
    let name = format!("task-{node}-{worker_type}-{}.log", rfc3339(upid.starttime));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Answer::new(200, Body::Chunked(text.into_bytes()))
        .with_header("content-type", "text/plain")
        .with_header("content-disposition", &format!("attachment; filename={name}"))
}

/// `GET /nodes/NODE/tasks`
pub fn list(state: &mut State, request: &Request, auth_id: &str, node: &str) -> Outcome {
    let known = [
        optional("start", Kind::Int(0)),
        optional("limit", Kind::Int(0)),
        optional("running", Kind::Bool),
        optional("errors", Kind::Bool),
        optional("store", Kind::Text),
        optional("userfilter", Kind::Text),
        optional("typefilter", Kind::Text),
        optional("since", Kind::Int(0)),
        optional("until", Kind::Int(0)),
    ];
    let params = Params::read(request, &[("node", node)], &known)?;
    let start = usize::try_from(params.int("start").unwrap_or(0)).unwrap_or(0);
    let limit = limit(&params);
    let fits = |task: &&Task| {
        let upid = &task.upid;
        let failed = task.end.as_ref().is_some_and(|(_, text)| text != "OK");
        may_see(state, auth_id, upid)
            && (params.flag("running") != Some(true) || task.end.is_none())
            && (params.flag("errors") != Some(true) || failed)
            && params.text("store").is_none_or(|store| task.store == store)
            && params.text("userfilter").is_none_or(|part| upid.auth_id.contains(part))
            && params.text("typefilter").is_none_or(|part| upid.worker_type.contains(part))
            && params.int("since").is_none_or(|since| upid.starttime >= since)
            && params.int("until").is_none_or(|until| upid.starttime <= until)
    };
    let newest_first = state.tasks.iter().rev();
    // A task that ended before `since` ends the search, whatever follows it.
    let since = params.int("since");
    let too_old = |task: &&Task| {
        let ended = task.end.as_ref().map(|(time, _)| *time);
        since.zip(ended).is_some_and(|(since, ended)| ended < since)
    };
    let (running, over): (Vec<&Task>, Vec<&Task>) =
        newest_first.partition(|task| task.end.is_none());
    let over: Vec<&Task> =
        over.into_iter().take_while(|task| !too_old(task)).filter(fits).collect();
    let running: Vec<&Task> = running.into_iter().filter(fits).collect();
    let entries: Vec<String> =
        running.into_iter().chain(over).skip(start).take(limit).map(entry).collect();
    // A full page counts as if one more entry would follow.
    let full = !entries.is_empty() && entries.len() >= limit;
    let total = start + entries.len() + usize::from(full);
    Ok(Reply::List(Box::new(move |out: &mut dyn Write| {
        let data = entries.join(",");
        out.write_all(format!("{{\"total\":{total},\"data\":[{data}]}}").as_bytes())
    })))
}

fn entry(task: &Task) -> String {
    let upid = &task.upid;
    let mut pairs = vec![
        ("upid", json!(upid.to_string())),
        // As recorded, whatever the node's name.
        ("node", json!("localhost")),
        ("pid", json!(upid.pid)),
        ("pstart", json!(upid.pstart)),
        ("starttime", json!(upid.starttime)),
        ("worker_type", json!(upid.worker_type)),
        ("worker_id", json!(upid.worker_id)),
        ("user", json!(upid.auth_id)),
    ];
    if let Some((time, exitstatus)) = &task.end {
        pairs.push(("endtime", json!(time)));
        pairs.push(("status", json!(exitstatus)));
    }
    ordered(&pairs)
}

/// `DELETE /nodes/NODE/tasks/UPID`
pub fn stop(
    state: &mut State,
    request: &Request,
    auth_id: &str,
    node: &str,
    upid: &str,
) -> Outcome {
    Params::read(request, &[("node", node), ("upid", upid)], &[])?;
    allowed(state, auth_id, upid)?;
    let now = state.now();
    let mut tasks = state.tasks.iter_mut();
    if let Some(task) = tasks.find(|task| task.upid.to_string() == upid) {
        let error = "abort requested - aborting task";
        task.abort(now, error, Some(&format!("TASK ERROR: {error}")));
    }
    Ok(Reply::Data(Value::Null))
}
