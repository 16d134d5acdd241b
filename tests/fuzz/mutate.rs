//! A mutator that always gives the same result for the same seed.

/// A small generator of numbers (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A range within `bytes`; empty if `bytes` is empty.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let (one, other) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
        one.min(other)..one.max(other)
    }
}

const NUMBERS: [&str; 9] = [
    "0",
    "-1",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "-9223372036854775808",
    "1e999",
    "0.5",
];

const TEXTS: [&[u8]; 16] = [
    b"",
    b"\x1b[2J",
    b"\\u001b]0;x\\u0007",
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\0",
    b"\r\n",
    b"\"",
    b"../../etc/shadow",
    b"\xe2\x80\xae",
    b"\xd8\x9c",
    b"null",
    b"[]",
    b"{}",
];

/// Changes `input` in one to four ways.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, samples: &[(String, Vec<u8>)]) {
    for _ in 0..=random.below(4) {
        match random.below(10) {
            0 => flip(random, input),
            1 => input.truncate(random.below(input.len() + 1)),
            2 => {
                let (_, other) = random.pick(samples);
                splice(random, input, other);
            }
            3 => duplicate(random, input),
            4 => drop(input.drain(random.range(input))),
            5 | 6 => {
                let number = random.pick(&NUMBERS).as_bytes();
                replace(random, input, number, |byte| byte.is_ascii_digit());
            }
            7 => {
                let text = *random.pick(&TEXTS);
                replace(random, input, text, |byte| byte.is_ascii_alphanumeric());
            }
            8 => {
                let long = vec![b'a'; 1 << random.below(14)];
                replace(random, input, &long, |byte| byte.is_ascii_alphabetic());
            }
            _ => nest(random, input),
        }
    }
    // Repeated splicing and duplicating must not grow without limit.
    input.truncate(1 << 16);
}

fn flip(random: &mut Random, input: &mut [u8]) {
    let (at, bit) = (random.below(input.len()), random.below(8));
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

/// The beginning of one input and the end of the other.
fn splice(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    input.truncate(random.below(input.len() + 1));
    input.extend(&other[random.below(other.len() + 1)..]);
}

/// Repeats a part, or a line, several times.
fn duplicate(random: &mut Random, input: &mut Vec<u8>) {
    let range = match random.below(2) {
        0 => random.range(input),
        _ => {
            let lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
            if lines.is_empty() {
                return;
            }
            let line = random.below(lines.len());
            let start = lines[..line].iter().map(|line| line.len()).sum();
            start..start + lines[line].len()
        }
    };
    let piece = input[range.clone()].repeat(1 + random.below(4));
    input.splice(range.end..range.end, piece);
}

/// Replaces one word of bytes that satisfy `is_of` by another.
fn replace(random: &mut Random, input: &mut Vec<u8>, with: &[u8], is_of: fn(&u8) -> bool) {
    let from = random.below(input.len());
    let Some(start) = input[from..].iter().position(is_of).map(|at| from + at) else { return };
    let end =
        input[start..].iter().position(|byte| !is_of(byte)).map_or(input.len(), |n| start + n);
    input.splice(start..end, with.iter().copied());
}

/// Puts a part deep into brackets.
fn nest(random: &mut Random, input: &mut Vec<u8>) {
    let range = random.range(input);
    let (open, close) = *random.pick(&[("[", "]"), ("{\"a\":", "}"), ("{", "}")]);
    let depth = 1 << random.below(11);
    let mut nested = open.repeat(depth).into_bytes();
    nested.extend(&input[range.clone()]);
    nested.extend(close.repeat(depth).bytes());
    input.splice(range, nested);
}
