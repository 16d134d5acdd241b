//! The `stillpoint` command: for people, and for systemd units.

fn main() -> std::process::ExitCode {
    stillpoint::command::run()
}
