//! Lines: what is written is read, and reads the same for ever.

use super::*;
use crate::journal::body::{decode, encode};

fn all_losses() -> Vec<Loss> {
    let mut losses = vec![Loss::Expired, Loss::StoreLostIt, Loss::Clone, Loss::Revoked];
    for odd in ODD {
        losses.push(Loss::TakenBy(Principal::foreign(odd)));
        let who = Principal::foreign(odd);
        losses.push(Loss::BrokenBy { who: who.clone(), why: None });
        losses.push(Loss::BrokenBy { who, why: Some(Reason::foreign(odd)) });
    }
    losses
}

fn every_kind() -> Vec<Record> {
    let mut records = vec![
        boot(0xab, -5),
        marking(1, u64::MAX),
        renewed(1, 0, 0),
        gone(1),
        Record::Floor(Fence(u64::MAX)),
        granted(1, u64::MAX, 3),
        ending(1, Ending::Cancel),
        ending(1, Ending::Release),
        Record::Renewed {
            lease: LeaseId::from_bytes([0; 16]),
            nonce: None,
            ttl: ttl(1),
            hold: Hold::No,
            sent: Moment::NEVER,
            remaining: Duration::from_nanos(u64::MAX),
        },
        Record::Marking { lease: lease(1), next: Nonce(0), ceiling: Some((at(1), secs(2))) },
    ];
    records.extend(all_losses().into_iter().map(|loss| lost(2, loss)));
    for number in 0..12 {
        records.push(intent(number, Hold::No, Attach::Detached));
        records.push(intent(number, Hold::Keep, Attach::Session(SessionId::NOBODY)));
        records.push(intent(number, Hold::Until(Moment::NEVER), Attach::Session(SessionId(0))));
    }
    records
}

#[test]
fn every_kind_of_record_is_read_as_it_was_written() {
    for record in every_kind() {
        let line = Line::Record(record);
        assert_eq!(decode(&encode(&line).unwrap()).unwrap(), line);
    }
    for machine in [None, Some("abc".to_owned())] {
        for line in [Line::Begin, Line::Whole] {
            let line = line(Place { machine: machine.clone(), ..place() });
            assert_eq!(decode(&encode(&line).unwrap()).unwrap(), line);
        }
    }
}

#[test]
fn a_line_reads_the_same_for_ever() {
    let check = |record: Record, golden: &str| {
        let line = Line::Record(record);
        assert_eq!(String::from_utf8(encode(&line).unwrap()).unwrap(), golden);
        assert_eq!(decode(golden.as_bytes()).unwrap(), line);
    };
    let id = "eeeeeeeeeeeeeeee0000000000000002";
    check(
        boot(0xab, -5),
        r#"{"boot":{"id":"abababababababababababababababab","wall_at_boot_ms":-5}}"#,
    );
    check(
        intent(2, Hold::Until(at(9)), Attach::Session(SessionId(4))),
        &format!(
            concat!(
                r#"{{"intent":{{"resource":"prod/db-2","lease":"{id}","backend":"main","#,
                r#""principal":"Žofie Дмитрий 明 🦀","host":"bastion2","#,
                r#""reason":"Žofie Дмитрий 明 🦀","ttl_secs":900,"created_ms":1700000123456,"#,
                r#""nonce":"0000000200000000","owner":1002,"hold":{{"until_ns":9000000000}},"#,
                r#""attach":{{"session":4}}}}}}"#
            ),
            id = id
        ),
    );
    check(
        granted(2, 7, 1),
        &format!(
            concat!(
                r#"{{"granted":{{"lease":"{id}","fence":7,"#,
                r#""sent_ns":1000000000,"remaining_ns":900000000000}}}}"#
            ),
            id = id
        ),
    );
    check(
        marking(2, 0xff),
        &format!(r#"{{"marking":{{"lease":"{id}","next":"00000000000000ff","ceiling":null}}}}"#),
    );
    check(
        renewed(2, 1, 1),
        &format!(
            concat!(
                r#"{{"renewed":{{"lease":"{id}","nonce":"0000000000000001","ttl_secs":600,"#,
                r#""hold":"keep","sent_ns":1000000000,"remaining_ns":600000000000}}}}"#
            ),
            id = id
        ),
    );
    check(ending(2, Ending::Cancel), &format!(r#"{{"ending":{{"lease":"{id}","how":"cancel"}}}}"#));
    check(
        lost(2, Loss::TakenBy(Principal::foreign("bob"))),
        &format!(r#"{{"lost":{{"lease":"{id}","loss":{{"taken_by":"bob"}}}}}}"#),
    );
    check(
        lost(2, Loss::StoreLostIt),
        &format!(r#"{{"lost":{{"lease":"{id}","loss":"store_lost_it"}}}}"#),
    );
    check(gone(2), &format!(r#"{{"gone":{{"lease":"{id}"}}}}"#));
    check(Record::Floor(Fence(3)), r#"{"floor":{"fence":3}}"#);
    assert_eq!(String::from_utf8_lossy(&frame::header()), "stormlock journal 1 ed23053a\n");
}

#[test]
fn a_field_that_is_not_known_is_passed_over_and_a_kind_that_is_not_known_never() {
    let record = br#"{"floor":{"fence":3,"since":"tuesday"}}"#;
    assert_eq!(decode(record).unwrap(), Line::Record(Record::Floor(Fence(3))));
    decode(br#"{"shared":{"lease":"1"}}"#).unwrap_err();
    decode(br#"{"gone":{"lease":"no id"}}"#).unwrap_err();
    decode(br#"{"gone":{}}"#).unwrap_err();
}

/// What a command was let go under stands in no record of its own.
#[test]
fn the_ttl_that_a_command_counts_on_outlives_a_compaction() {
    let group = |pid| ProcessId { pid, started: 1, group: true };
    let [first, second] = [group(7), group(8)];
    let shorter = |lease| Record::Renewed {
        lease,
        nonce: None,
        ttl: ttl(300),
        hold: Hold::Keep,
        sent: at(2),
        remaining: secs(300),
    };
    let mut records = vec![
        boot(1, 0),
        intent(1, Hold::Keep, Attach::Process(first)),
        granted(1, 7, 1),
        renewed(1, 1, 2),
    ];
    let counts_on = |records: &[Record]| {
        let memory = sum(records);
        assert_eq!(sum(&memory.records()), memory);
        memory.leases[&lease(1)].command_ttl
    };
    assert_eq!(counts_on(&records), Some(ttl(900)), "a later ttl is not what it began under");
    records.push(Record::Shared { lease: lease(1), process: second });
    records.push(shorter(lease(1)));
    assert_eq!(counts_on(&records), Some(ttl(900)));
    records.push(Record::Attached { lease: lease(1), attach: Attach::Detached });
    assert_eq!(counts_on(&records), Some(ttl(900)), "the other goes on");
    records.push(Record::Left { lease: lease(1), process: second });
    assert_eq!(counts_on(&records), None);
    records.push(Record::Attached { lease: lease(1), attach: Attach::Process(first) });
    assert_eq!(counts_on(&records), Some(ttl(300)));
}

proptest! {
    #[test]
    fn a_compacted_journal_adds_up_to_the_same(choices in choices(), reboots in any::<bool>()) {
        let mut records = vec![boot(1, 1_000)];
        records.extend(core_like(&choices));
        if reboots {
            records.push(boot(7, 60_000));
            records.push(intent(900, Hold::Keep, Attach::Detached));
        }
        let memory = sum(&records);
        let id = if reboots { [7; 16] } else { [1; 16] };
        let wall_at_boot = UnixMs(if reboots { 60_000 } else { 1_000 });
        let there = Place { boot: id, wall_at_boot, ..place() };
        let found = recover(&writer::image(&there, &memory).unwrap());
        prop_assert_eq!(found.memory, memory);
        prop_assert!(found.notes.is_empty() && found.aside.is_none() && !found.damaged);
    }
}
