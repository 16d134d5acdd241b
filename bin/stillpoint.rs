//! The `stillpoint` command: for a person, and for systemd units.

fn main() -> std::process::ExitCode {
    stillpoint::command::run()
}
