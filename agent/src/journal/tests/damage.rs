//! Bad bytes: never a panic, never a lease that was not, never one that is over and held again.

use std::collections::BTreeMap;

use super::*;
use crate::journal::recover::{Aside, Found, Newer};

/// A journal whose every state is known.
struct Sample {
    bytes: Vec<u8>,
    /// Where the beginning ends that was on disk before the file had its name.
    whole_at: usize,
    /// After the beginning, and after each record behind it.
    states: Vec<Memory>,
}

impl Sample {
    fn new(before: &Memory, records: &[Record]) -> Sample {
        let mut bytes = writer::image(&place(), before).expect("short records");
        let (whole_at, mut memory) = (bytes.len(), before.clone());
        let mut states = vec![before.clone()];
        for record in records {
            bytes.extend(lines(std::slice::from_ref(record)));
            memory.apply(record.clone());
            states.push(memory.clone());
        }
        Sample { bytes, whole_at, states }
    }

    /// All kinds of records, in the beginning and behind it, of two boots and several leases.
    fn of_every_kind() -> Sample {
        let mut before = vec![boot(1, 1_699_999_000_000)];
        before.extend([intent(1, Hold::Keep, Attach::Session(SessionId(1))), granted(1, 3, 10)]);
        before.push(boot(7, place().wall_at_boot.0));
        before.extend([intent(2, Hold::Keep, Attach::Detached), granted(2, 4, 20), marking(2, 77)]);
        before.extend([intent(3, Hold::No, Attach::Detached), granted(3, 5, 21)]);
        before.extend([intent(4, Hold::No, Attach::Detached), lost(4, Loss::Expired)]);
        let records = [
            ending(3, Ending::Release),
            intent(5, Hold::Until(at(9999)), Attach::Session(SessionId(2))),
            granted(5, 6, 30),
            renewed(2, 77, 31),
            gone(3),
            marking(5, 78),
            renewed(5, 78, 32),
            intent(6, Hold::Keep, Attach::Detached),
            ending(6, Ending::Cancel),
            Record::Floor(Fence(9)),
            lost(1, Loss::TakenBy(Principal::foreign(ODD[2]))),
            intent(7, Hold::Keep, Attach::Detached),
            granted(7, 10, 40),
            lost(5, Loss::BrokenBy { who: Principal::foreign(ODD[1]), why: None }),
            intent(8, Hold::Keep, Attach::Detached),
            gone(4),
        ];
        Sample::new(&sum(&before), &records)
    }

    fn last(&self) -> &Memory {
        self.states.last().expect("never empty")
    }

    /// What must be true of anything recovered from this journal after something happened to it.
    fn judge(&self, found: &Found, what: &str) {
        let mut ever = BTreeMap::new();
        for state in &self.states {
            for (lease, known) in &state.leases {
                let fences: &mut (_, Vec<Option<Fence>>) =
                    ever.entry(*lease).or_insert((known, Vec::new()));
                fences.1.push(known.fence);
            }
        }
        for (lease, known) in &found.memory.leases {
            let (was, fences) =
                ever.get(lease).unwrap_or_else(|| panic!("{what}: {lease} is invented"));
            let (ours, theirs) = (&known.intent, &was.intent);
            assert_eq!(ours.claim.resource, theirs.claim.resource, "{what}");
            assert_eq!((ours.owner, ours.attach), (theirs.owner, theirs.attach), "{what}");
            assert!(known.fence.is_none() || fences.contains(&known.fence), "{what}");
        }
        if !found.damaged {
            assert!(self.states.contains(&found.memory), "{what}: a state that never was");
            return;
        }
        assert!(!found.notes.is_empty(), "{what}: silent");
        assert_eq!(found.aside, Some(Aside::Damaged), "{what}");
        assert!(found.memory.floor >= self.last().floor, "{what}: a fence could come again");
        for (lease, known) in &found.memory.leases {
            if matches!(known.stage, Stage::Asked | Stage::Held) {
                let at_last = self.last().leases.get(lease).map(|it| &it.stage);
                assert_eq!(Some(&known.stage), at_last, "{what}: {lease} is over and back again");
                assert!(known.stage == Stage::Asked || known.fence.is_some(), "{what}");
            }
        }
    }
}

#[test]
fn the_sample_itself_is_read_without_a_word() {
    let sample = Sample::of_every_kind();
    let found = recover(&sample.bytes);
    assert_eq!(&found.memory, sample.last());
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!((found.aside, found.damaged), (None, false));
}

#[test]
fn every_truncation_is_a_state_that_was_or_is_said_loudly() {
    let sample = Sample::of_every_kind();
    for len in 0..sample.bytes.len() {
        let found = recover(&sample.bytes[..len]);
        sample.judge(&found, &format!("cut at {len}"));
        // What was on disk before the file had its name cannot have been torn by a crash.
        assert_eq!(found.damaged, len < sample.whole_at, "cut at {len}");
    }
}

#[test]
fn no_flipped_bit_invents_a_lease_or_goes_unnoticed() {
    let sample = Sample::of_every_kind();
    let mut bytes = sample.bytes.clone();
    let last_line = {
        let all_but_last = Sample::of_every_kind().bytes;
        all_but_last.len() - lines(&[gone(4)]).len()
    };
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let found = recover(&bytes);
            let what = format!("bit {bit} of byte {at}");
            sample.judge(&found, &what);
            assert!(!found.notes.is_empty(), "{what}: silent");
            assert_eq!(found.damaged, at < last_line, "{what}");
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_torn_tail_is_cut_and_said() {
    let sample = Sample::of_every_kind();
    let mut bytes = sample.bytes.clone();
    bytes.extend([0; 4096]);
    let found = recover(&bytes);
    assert_eq!((&found.memory, found.aside, found.damaged), (sample.last(), None, false));
    assert!(found.notes[0].contains("cut 4096 bytes"), "{:?}", found.notes);
}

/// A journal of these records with one of them made unreadable.
fn without(index: usize, records: &[Record]) -> Found {
    let mut bytes = writer::image(&place(), &sum(&[boot(7, place().wall_at_boot.0)])).unwrap();
    for (at, record) in records.iter().enumerate() {
        let mut line = lines(std::slice::from_ref(record));
        if at == index {
            *line.last_mut().unwrap() ^= 1;
        }
        bytes.extend(line);
    }
    recover(&bytes)
}

fn stage_of(found: &Found, number: u64) -> Option<Stage> {
    found.memory.leases.get(&lease(number)).map(|known| known.stage.clone())
}

#[test]
fn a_lease_whose_end_may_be_in_the_damage_is_lost_and_not_held() {
    for end in [ending(1, Ending::Release), lost(1, Loss::Expired), gone(1)] {
        let found = without(
            2,
            &[
                intent(1, Hold::Keep, Attach::Detached),
                granted(1, 1, 1),
                end,
                intent(2, Hold::Keep, Attach::Detached),
            ],
        );
        assert_eq!(stage_of(&found, 1), Some(Stage::Lost(Loss::StoreLostIt)));
        assert_eq!(stage_of(&found, 2), Some(Stage::Asked));
        assert!(found.notes[0].contains("prod/db-1"), "{:?}", found.notes);
    }
}

#[test]
fn a_lease_that_was_renewed_after_the_damage_is_kept() {
    let keep = |number| intent(number, Hold::Keep, Attach::Detached);
    let records = [keep(1), granted(1, 1, 1), marking(1, 5), gone(9), renewed(1, 5, 6), keep(2)];
    for index in [2, 3] {
        assert_eq!(stage_of(&without(index, &records), 1), Some(Stage::Held), "{index}");
    }
    let found = without(4, &records);
    assert_eq!(stage_of(&found, 1), Some(Stage::Lost(Loss::StoreLostIt)));
}

#[test]
fn an_acquire_whose_grant_may_be_in_the_damage_is_not_cancelled_under_its_holder() {
    let keep = |number| intent(number, Hold::Keep, Attach::Detached);
    let found = without(1, &[keep(1), granted(1, 8, 1), renewed(1, 5, 6), keep(2)]);
    assert_eq!(stage_of(&found, 1), Some(Stage::Lost(Loss::StoreLostIt)));
    let found = without(1, &[keep(1), gone(9), granted(1, 8, 1), keep(2)]);
    assert_eq!(stage_of(&found, 1), Some(Stage::Held));
}

#[test]
fn a_lease_that_begins_after_the_damage_is_as_good_as_ever() {
    let keep = |number| intent(number, Hold::Keep, Attach::Detached);
    let found = without(0, &[gone(9), keep(1), granted(1, 1, 1)]);
    assert_eq!(stage_of(&found, 1), Some(Stage::Held));
    assert!(found.damaged);
}

#[test]
fn a_lease_whose_intent_is_in_the_damage_is_forgotten_and_its_fence_is_not() {
    let keep = |number| intent(number, Hold::Keep, Attach::Detached);
    let found = without(0, &[keep(1), granted(1, 41, 1), renewed(1, 5, 6)]);
    assert_eq!(stage_of(&found, 1), None);
    assert!(found.memory.floor > 41 && found.damaged);
}

#[test]
fn a_file_that_names_no_machine_any_more_is_nobodys() {
    let sample = Sample::of_every_kind();
    for bytes in [&b""[..], b"\0\0\0\0", b"hello, this is no journal\n", &sample.bytes[..30]] {
        let found = recover(bytes);
        assert!(found.memory.leases.is_empty() && found.damaged);
        assert_eq!(found.aside, Some(Aside::Damaged));
        assert!(found.notes[0].contains("/state/Damaged"), "{:?}", found.notes);
        assert!(found.notes[0].contains("No lease can be read in it"), "{:?}", found.notes);
    }
}

#[test]
fn one_bad_line_that_named_the_machine_costs_no_lease() {
    let sample = Sample::of_every_kind();
    let mut bytes = sample.bytes.clone();
    bytes[frame::header().len() + 20] ^= 1;
    let found = recover(&bytes);
    assert_eq!(found.memory.leases, sample.last().leases);
}

#[test]
fn another_machines_journal_is_not_adopted() {
    let sample = Sample::of_every_kind();
    for machine in [Some("another".to_owned()), None] {
        let there = Place { machine, ..place() };
        let found = recover::recover(&sample.bytes, &there, |aside| format!("{aside:?}")).unwrap();
        assert!(found.memory.leases.is_empty());
        assert_eq!(found.aside, Some(Aside::OtherMachine));
        assert_eq!(found.memory.floor, sample.last().floor);
        assert!(found.notes[0].contains("another machine"), "{:?}", found.notes);
    }
}

#[test]
fn a_newer_format_and_an_unknown_record_are_refused() {
    let there = place();
    let refused = |bytes: &[u8]| recover::recover(bytes, &there, |_| String::new()).unwrap_err();
    let newer = frame::header_of(2) + "whatever it has then";
    assert!(matches!(refused(newer.as_bytes()), Newer::Format(2)));
    let mut bytes = Sample::of_every_kind().bytes;
    assert!(frame::push(&mut bytes, br#"{"shared":{"lease":"1"}}"#));
    assert!(matches!(refused(&bytes), Newer::Line(_)));
}

#[test]
fn a_reason_cannot_pass_for_a_record() {
    let mut memory = sum(&[boot(7, place().wall_at_boot.0)]);
    let Record::Intent(mut hostile) = intent(1, Hold::Keep, Attach::Detached) else { panic!() };
    let fake = String::from_utf8_lossy(&lines(&[gone(1)])).into_owned();
    hostile.claim.host = fake;
    memory.apply(Record::Intent(hostile));
    let mut bytes = writer::image(&place(), &memory).unwrap();
    bytes.extend(lines(&[gone(9)]));
    // Its own line is made unreadable, so that everything in it is searched for lines.
    let inside = bytes.windows(9).position(|it| it == b"prod/db-1").unwrap();
    bytes[inside] ^= 1;
    let (_, pieces) = frame::split(&bytes);
    let bodies = pieces.iter().filter(|piece| matches!(piece, frame::Piece::Body(_))).count();
    assert_eq!(bodies, 6, "begin, floor, two boots, whole, gone: {pieces:?}");
}

#[test]
fn a_boot_that_was_lost_leaves_no_lease_with_a_wrong_date() {
    let sample = Sample::of_every_kind();
    let named = lines(&[boot(7, place().wall_at_boot.0)]);
    let from = sample.bytes.windows(named.len()).position(|it| it == named).unwrap();
    let mut bytes = sample.bytes.clone();
    bytes[from + 10] ^= 1;
    let found = recover(&bytes);
    sample.judge(&found, "no boot");
    assert_eq!(stage_of(&found, 2), Some(Stage::Lost(Loss::StoreLostIt)), "though renewed later");
    let later = &found.memory.leases[&lease(7)];
    assert!(later.stage == Stage::Held && !later.earlier_boot);
}

proptest! {
    #[test]
    fn random_records_with_a_random_cut_are_a_state_that_was(
        before in choices(), after in choices(), cut in any::<prop::sample::Index>(),
    ) {
        let sample = random_sample(&before, &after);
        let len = cut.index(sample.bytes.len());
        let found = recover(&sample.bytes[..len]);
        sample.judge(&found, &format!("cut at {len}"));
        prop_assert_eq!(found.damaged, len < sample.whole_at);
    }

    #[test]
    fn random_records_with_random_rubbish_in_them_invent_nothing(
        before in choices(), after in choices(),
        spots in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 1..64)), 1..4,
        ),
    ) {
        let sample = random_sample(&before, &after);
        let mut bytes = sample.bytes.clone();
        for (spot, rubbish) in spots {
            let from = spot.index(bytes.len());
            for (to, from) in bytes[from..].iter_mut().zip(rubbish) {
                *to = from;
            }
        }
        sample.judge(&recover(&bytes), "rubbish");
    }
}

/// The records before are the beginning; those after go on from there.
fn random_sample(before: &[(u8, u8)], after: &[(u8, u8)]) -> Sample {
    let all = core_like(&[before, after].concat());
    let (first, then) = all.split_at(before.len());
    let mut memory = sum(&[boot(7, place().wall_at_boot.0)]);
    for record in first {
        memory.apply(record.clone());
    }
    Sample::new(&memory, then)
}
