//! Wall clock for people, boot clock for durations.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// Milliseconds since the node booted, sleep included (`CLOCK_BOOTTIME`): the same in every
/// process, and not moved when somebody sets the clock. Comparable only within one boot, see
/// [`boot_id`].
pub fn boot_ms() -> u64 {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.now_ms();
    }
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1000
            + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}

/// Clock ticks since the node booted, as `/proc` counts them, in ms of the boot clock; `None` if
/// the kernel does not say how long a tick is.
pub fn ms_of_ticks(ticks: u64) -> Option<u64> {
    let a_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    ticks.checked_mul(1000)?.checked_div(u64::try_from(a_second).ok()?)
}

/// The time of day at that moment of the boot clock, by the present setting of the clock.
pub fn time_at(boot_ms_then: u64) -> DateTime<Utc> {
    let ago = boot_ms().saturating_sub(boot_ms_then);
    now() - TimeDelta::try_milliseconds(ago.cast_signed()).unwrap_or_default()
}

/// The kernel's id of this boot; empty if it cannot be read.
pub fn boot_id() -> String {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.boot();
    }
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_string())
        .unwrap_or_default()
}

/// Now, in UTC.
pub fn now() -> DateTime<Utc> {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return DateTime::UNIX_EPOCH + Duration::from_millis(1_795_303_376_000 + walk.now_ms());
    }
    Utc::now()
}

/// Now, for what is waited for.
pub fn instant() -> Instant {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return super::walk::instant(walk.now_ms());
    }
    Instant::now()
}

/// The time since then.
pub fn since(then: Instant) -> Duration {
    instant().saturating_duration_since(then)
}

/// Waits for so long.
pub fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.sleep(time);
    }
    std::thread::sleep(time);
}

/// Whether the clock is synchronised (NTP), as the kernel knows; `false` also if that cannot be
/// determined.
pub fn synchronised() -> bool {
    // SAFETY: all-zero is a valid timex, and `modes` 0 changes nothing.
    let mut state: nix::libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex fills in the structure, which is a live one of ours.
    let answer = unsafe { nix::libc::adjtimex(&raw mut state) };
    answer >= 0 && state.status & nix::libc::STA_UNSYNC == 0
}

/// Reads an RFC 3339 time; `None` if it is not one.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// RFC 3339 in UTC with milliseconds, as every time in the journal is written.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
