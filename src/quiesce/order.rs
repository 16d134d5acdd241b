//! Work on many things in parallel, each after the things it waits for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Threads at the most. Their stacks are small: a guest may name ten thousand containers.
const PARALLEL: usize = 32;
const STACK: usize = 256 * 1024;

/// How often a coordinator that waits looks up.
const TICK: Duration = Duration::from_millis(20);

/// Calls `work(i)` for every `i` of `waits_for`, in parallel, each when all that it waits for are done; hands
/// each result to `done` on the calling thread. Stops handing out work when `give_up` says so, and then
/// returns without waiting for what is under way (its threads end by themselves, or with the process).
///
/// `waits_for` must have no cycle; see [`acyclic`].
pub fn in_order<T, W>(
    waits_for: &[Vec<usize>],
    work: W,
    mut done: impl FnMut(usize, T),
    mut give_up: impl FnMut() -> bool,
) where
    T: Send + 'static,
    W: Fn(usize) -> T + Send + Sync + 'static,
{
    let mut missing: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len()];
    for (index, others) in waits_for.iter().enumerate() {
        for other in others {
            waiting[*other].push(index);
        }
    }
    let mut ready: VecDeque<usize> = (0..waits_for.len()).filter(|i| missing[*i] == 0).collect();
    let work = Arc::new(work);
    let (sender, receiver) = channel();
    let mut under_way = 0;
    loop {
        if give_up() {
            return;
        }
        while under_way < PARALLEL {
            let Some(index) = ready.pop_front() else { break };
            let (work, sender) = (Arc::clone(&work), sender.clone());
            let started = thread::Builder::new().stack_size(STACK).spawn(move || {
                // Nobody listens any more where the coordinator has given up.
                let _ = sender.send((index, work(index)));
            });
            match started {
                Ok(_) => under_way += 1,
                // No thread to be had now: one that is under way will make room, else a pause may.
                Err(_) => {
                    ready.push_front(index);
                    if under_way == 0 {
                        thread::sleep(TICK);
                    }
                    break;
                }
            }
        }
        if under_way == 0 && ready.is_empty() {
            return;
        }
        if let Ok((index, result)) = receiver.recv_timeout(TICK) {
            under_way -= 1;
            done(index, result);
            for waiter in &waiting[index] {
                missing[*waiter] -= 1;
                if missing[*waiter] == 0 {
                    ready.push_back(*waiter);
                }
            }
        }
    }
}

/// The indices, each after those it waits for; what waits in a circle is left out.
pub fn sorted(waits_for: &[&[usize]]) -> Vec<usize> {
    let mut missing: Vec<usize> = waits_for.iter().map(|others| others.len()).collect();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len()];
    for (index, others) in waits_for.iter().enumerate() {
        for other in *others {
            waiting[*other].push(index);
        }
    }
    let mut order: Vec<usize> = (0..waits_for.len()).filter(|i| missing[*i] == 0).collect();
    let mut next = 0;
    while let Some(index) = order.get(next).copied() {
        next += 1;
        for waiter in &waiting[index] {
            missing[*waiter] -= 1;
            if missing[*waiter] == 0 {
                order.push(*waiter);
            }
        }
    }
    order
}

/// Takes out of `waits_for` what would make something wait for itself: where only circles are left, the first
/// thing in them waits no more. Returns how many waits were taken out.
pub fn acyclic(waits_for: &mut [Vec<usize>]) -> usize {
    let mut taken_out = 0;
    loop {
        let others: Vec<&[usize]> = waits_for.iter().map(Vec::as_slice).collect();
        let mut in_circle = vec![true; others.len()];
        for index in sorted(&others) {
            in_circle[index] = false;
        }
        let Some(first) = in_circle.iter().position(|in_circle| *in_circle) else {
            return taken_out;
        };
        let before = waits_for[first].len();
        waits_for[first].retain(|other| !in_circle[*other]);
        taken_out += before - waits_for[first].len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(waits_for: &[Vec<usize>]) -> Vec<usize> {
        let mut order = Vec::new();
        in_order(waits_for, |index| index, |index, _| order.push(index), || false);
        order
    }

    #[test]
    fn nothing_is_done_before_what_it_waits_for() {
        let waits_for = vec![vec![1, 2], vec![2], vec![], vec![0]];
        assert_eq!(order(&waits_for), [2, 1, 0, 3]);
        assert_eq!(order(&[]), [0; 0]);
    }

    #[test]
    fn what_does_not_wait_is_done_at_once() {
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let mut count = 0;
        // Each waits for the two others: done only if all three are under way together.
        in_order(
            &[vec![], vec![], vec![]],
            move |_| {
                barrier.wait();
            },
            |_, ()| count += 1,
            || false,
        );
        assert_eq!(count, 3);
    }

    #[test]
    fn giving_up_waits_for_nothing() {
        let mut looks = 0;
        let hang = |_| thread::sleep(Duration::from_secs(600));
        in_order(
            &[vec![]],
            hang,
            |_, ()| panic!("it hangs"),
            || {
                looks += 1;
                looks > 3
            },
        );
    }

    #[test]
    fn circles_are_opened() {
        let mut circle = vec![vec![1], vec![2], vec![0], vec![0]];
        assert_eq!(acyclic(&mut circle), 1);
        assert_eq!(order(&circle).len(), 4);
        let mut itself = vec![vec![0]];
        assert_eq!(acyclic(&mut itself), 1);
        let mut line = vec![vec![1], vec![2], vec![]];
        assert_eq!(acyclic(&mut line), 0);
    }
}
