//! Whole connections over a socket pair.

use super::*;
use std::os::unix::net::UnixStream;

fn exchange(input: &[u8], handler: &(dyn Fn(&Request) -> Answer + Sync)) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || serve_connection(server, handler));
        client.write_all(input).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).unwrap();
        output
    })
}

#[test]
fn two_requests_share_a_connection() {
    let output = exchange(
        b"GET /a%20b/c?x=1%2b&y HTTP/1.1\r\nHost: h\r\n\r\n\
          POST /d HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nz=3+4",
        &|request| {
            let x = request.param("x").or_else(|| request.param("z"));
            let body = format!("{:?} {}", request.segments(), x.unwrap_or_default());
            Answer::new(200, Body::Fixed(body.into_bytes()))
        },
    );
    assert!(output.contains("[\"a b\", \"c\"] 1+HTTP/1.1 200 OK"));
    assert!(output.contains("connection: close"));
    assert!(output.ends_with("[\"d\"] 3 4"));
}

#[test]
fn chunks_are_read_and_written() {
    let output = exchange(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        &|request| Answer::new(200, Body::Chunked(request.body.clone())),
    );
    assert!(output.ends_with("5\r\nabcde\r\n0\r\n\r\n"), "{output}");
}

#[test]
fn a_cut_off_answer_ends_the_connection() {
    let output = exchange(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", &|_| {
        let sent = b"ab".to_vec();
        Answer::new(200, Body::CutOff { promised: 9, sent })
    });
    assert!(output.contains("content-length: 9"));
    assert!(output.ends_with("\r\n\r\nab"));
}
