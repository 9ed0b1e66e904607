//! What a look after doubtful bookings costs, and what it may not touch.

use super::*;

fn at(now: u64) -> Moment {
    Moment { now: LeaseTime(now * 1_000_000), term: 1 }
}

fn lease(id: u128) -> Thing {
    Thing::Lease(LeaseId(id))
}

#[test]
fn a_look_takes_a_bounded_number_of_ones_own_the_longest_unheard_of_first() {
    let mut book = Book::default();
    let many = LOOKED_AT_MAX as u128 + 10;
    for id in 0..many {
        book.put("others", lease(1_000_000 + id), at(1));
        book.put("mine", lease(many - id), at(1 + u64::try_from(id).expect("small")));
    }
    let now = at(1_000_000).now;
    let looked = book.doubtful("mine", now);
    let oldest: Vec<Thing> = (0..LOOKED_AT_MAX as u128).map(|id| lease(many - id)).collect();
    assert_eq!(looked, oldest);
    assert!(book.doubtful("mine", now).is_empty(), "not again at once");
    for thing in looked {
        book.looked_at(thing, false, now);
    }
    let next = book.doubtful("mine", now.plus_ms(LOOK_EVERY_MS));
    assert_eq!(next.first(), Some(&lease(10)), "the rest is looked at first");
}

#[test]
fn a_look_does_not_touch_what_a_living_call_booked() {
    let mut book = Book::default();
    let key = Key::Request(RequestId(7));
    assert_eq!(book.book("mine", key, &[lease(1)], 1, at(1)), Some(key));
    assert!(book.doubtful("mine", at(100).now).is_empty());
    book.settle("mine", key, Fate::Doubt, at(200));
    assert_eq!(book.doubtful("mine", at(300).now), [lease(1)]);
    // A repeat came while the machine was looked at.
    assert_eq!(book.book("mine", key, &[lease(2)], 1, at(300)), Some(key));
    book.looked_at(lease(1), true, at(300).now);
    assert_eq!(book.book("mine", Key::First(lease(3)), &[lease(3)], 1, at(300)), None);
    book.settle("mine", key, Fate::Granted(vec![lease(2)]), at(301));
    assert!(book.knows(lease(2)) && !book.knows(lease(1)));
    book.strike(lease(2));
    assert!(book.accounts.is_empty() && book.calls.is_empty() && book.entries.is_empty());
}

#[test]
fn what_a_repeat_found_there_leaves_nothing_of_the_call_that_booked_it() {
    let mut book = Book::default();
    let key = Key::Request(RequestId(1));
    assert_eq!(book.book("one", key, &[lease(1)], 1, at(1)), Some(key));
    book.settle("one", key, Fate::Doubt, at(2));
    book.put("one", lease(1), at(3));
    book.strike(lease(1));
    assert!(book.calls.is_empty() && book.entries.is_empty(), "{book:?}");
    assert_eq!(book.book("one", key, &[lease(2)], 0, at(4)), None, "it counts as any other");
}
