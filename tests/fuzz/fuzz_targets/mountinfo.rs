#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stillpoint_fuzz::call("mountinfo", input));
