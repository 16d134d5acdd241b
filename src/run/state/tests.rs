use super::*;

#[test]
fn a_backup_goes_through_its_states_once() {
    let (mut pre_stop, mut copy) = (PreStop::NotCome, DataCopy::Pending);
    let (mut proof, mut journalled) = (Proof::NotDue, Journalled::No);
    pre_stop.look();
    assert_eq!(pre_stop, PreStop::Looked);
    copy.done();
    assert_eq!((copy, copy.is_done()), (DataCopy::Done, true));
    proof.fall_due();
    assert_eq!(proof, Proof::Due);
    copy.return_guest();
    assert_eq!((copy, copy.is_done()), (DataCopy::GuestReturned, true));
    proof.done();
    journalled.begin();
    assert_eq!((journalled, journalled.is_done()), (Journalled::Writing, false));
    journalled.done();
    // The same phases come a second time.
    copy.done();
    proof.fall_due();
    journalled.begin();
    assert_eq!((copy, proof), (DataCopy::GuestReturned, Proof::Done), "nothing is due twice");
    assert!(journalled.is_done(), "nothing is journalled twice");
}

#[test]
fn nothing_is_proven_that_was_not_due() {
    let mut proof = Proof::NotDue;
    proof.done();
    assert_eq!(proof, Proof::NotDue);
}

#[test]
fn a_guest_is_shut_down_and_started_again() {
    let mut shutdown = Shutdown::NotAsked;
    shutdown.hand_over(100);
    assert!(shutdown.may_still_come() && !shutdown.was_down());
    shutdown.start(150);
    assert_eq!(shutdown, Shutdown::HandedOver { at_ms: 100 }, "it has not gone down yet");
    shutdown.see_down();
    assert_eq!(shutdown, Shutdown::SeenDown { asked_ms: Some(100) });
    assert!(!shutdown.may_still_come() && shutdown.was_down());
    assert_eq!(shutdown.downtime_ms(), None, "it is down still");
    shutdown.start(400);
    shutdown.see_down();
    shutdown.start(900);
    shutdown.hand_over(900);
    shutdown.withhold(900);
    assert_eq!(shutdown, Shutdown::Returned { asked_ms: Some(100), at_ms: 400 });
    assert_eq!((shutdown.asked_ms(), shutdown.downtime_ms()), (Some(100), Some(300)));
}

#[test]
fn a_guest_that_nobody_was_left_to_shut_down_is_not_waited_for() {
    let mut shutdown = Shutdown::NotAsked;
    shutdown.withhold(100);
    assert_eq!((shutdown.may_still_come(), shutdown.asked_ms()), (false, Some(100)));
    let mut shutdown = Shutdown::HandedOver { at_ms: 100 };
    shutdown.withhold(200);
    assert_eq!(shutdown, Shutdown::HandedOver { at_ms: 100 }, "it may go down all the same");
    let mut shutdown = Shutdown::NotAsked;
    shutdown.see_down();
    shutdown.start(300);
    assert_eq!(
        (shutdown.was_down(), shutdown.downtime_ms()),
        (true, None),
        "since when is unknown"
    );
}

#[test]
fn containers_come_to_rest_and_are_given_up_from_any_state() {
    let mut rest = Rest::Planned;
    rest.finish(5);
    assert_eq!(rest, Rest::Planned, "nothing was requested");
    rest.begin(10);
    let stopping = rest;
    rest.begin(20);
    rest.finish(30);
    rest.finish(40);
    assert_eq!(rest, Rest::AtRest { began_ms: 10, rested_ms: 30 });
    assert_eq!((rest.took_ms(), rest.is_given_up()), (Some(20), false));
    for (mut rest, began_ms) in [(Rest::Planned, None), (stopping, Some(10)), (rest, Some(10))] {
        rest.give_up(50);
        assert_eq!(rest, Rest::GivenUp { began_ms, at_ms: 50 });
        rest.give_up(60);
        rest.begin(60);
        rest.finish(60);
        assert_eq!(rest, Rest::GivenUp { began_ms, at_ms: 50 }, "that is the end of it");
    }
}

#[test]
fn the_end_of_the_requests_is_known_since_whoever_came_first() {
    let mut resuming = Resuming::NotBegun;
    resuming.begin(Some(70), 100);
    resuming.begin(None, 200);
    resuming.start(250);
    resuming.begin(Some(240), 300);
    assert_eq!(resuming, Resuming::Started { requests_ended_ms: 70, last_ms: 250 });
    resuming.request_again(400);
    assert_eq!(resuming, Resuming::Started { requests_ended_ms: 400, last_ms: 250 });
    resuming.begin(None, 9);
    assert_eq!(resuming.requests_ended_ms(), Some(9), "the boot clock has begun anew");
    let mut resuming = Resuming::NotBegun;
    resuming.begin(None, 100);
    assert_eq!(resuming, Resuming::Begun { requests_ended_ms: 100 });
    let mut resuming = Resuming::NotBegun;
    resuming.start(30);
    assert_eq!(resuming, Resuming::Started { requests_ended_ms: 30, last_ms: 30 });
}

#[test]
fn a_container_is_stopped_once() {
    let mut stop = Stop::Planned;
    stop.confirm(5);
    stop.refuse();
    stop.kill(Killed::WithData);
    stop.yield_up();
    assert_eq!((stop, stop.was_prepared()), (Stop::Planned, false), "nothing was requested");
    stop.request();
    assert!(stop.is_unanswered() && stop.was_prepared());
    stop.confirm(5);
    stop.request();
    stop.confirm(9);
    stop.refuse();
    assert_eq!((stop.ms(), stop.is_unanswered(), stop.killed()), (Some(5), false, None));
    stop.kill(Killed::WithData);
    assert_eq!(stop.killed(), Some(Killed::WithData));
    let mut stop = Stop::Requested;
    stop.refuse();
    stop.request();
    stop.confirm(5);
    assert_eq!((stop, stop.was_prepared()), (Stop::Unprepared, true), "it was not asked to stop");
}

#[test]
fn how_a_container_stopped_for_the_backup_outlasts_a_second_stop() {
    let stopped = Stop::Stopped(Stopped { ms: 5, killed: Some(Killed::WithoutData) });
    let mut stop = stopped;
    stop.ask_to_yield();
    stop.ask_to_yield();
    assert_eq!((stop.ms(), stop.is_unanswered()), (None, true));
    assert_eq!(stop.killed(), Some(Killed::WithoutData));
    stop.confirm(9);
    stop.refuse();
    stop.yield_up();
    assert_eq!(stop, stopped);
    let mut stop = Stop::Requested;
    stop.ask_to_yield();
    stop.yield_up();
    assert_eq!(stop, Stop::Requested, "the first answer is still unknown");
}

#[test]
fn a_container_waits_is_started_watched_and_started_again_where_it_ends() {
    let mut start = Start::NotStarted;
    start.stay_up();
    start.end();
    assert_eq!(start, Start::NotStarted);
    assert!(start.wait(10) && !start.wait(20), "it has waited before");
    assert_eq!((start.waiting_since_ms(), start.ms()), (Some(10), None));
    start.end();
    assert_eq!(start.waiting_since_ms(), Some(10), "what was not started has not ended");
    start.confirm(7, Some(99));
    start.confirm(8, None);
    start.wait(30);
    assert_eq!((start.ms(), start.watched_until_ms()), (Some(7), Some(99)));
    start.stay_up();
    assert_eq!(start, Start::Started { ms: 7 });
    start.end();
    assert_eq!(start, Start::NotStarted);
    start.confirm(9, None);
    assert_eq!((start, start.watched_until_ms()), (Start::Started { ms: 9 }, None));
}

#[test]
fn failures_are_counted_from_the_first_one() {
    let mut failures = Failures::None;
    assert_eq!((failures.add(100), failures.add(700)), (0, 600));
    assert_eq!(failures, Failures::Since { first_ms: 100, count: 2 });
    assert_eq!(failures.add(40), 0, "the boot clock has begun anew");
    assert_eq!((failures.add(50), failures.count()), (10, 4));
}
