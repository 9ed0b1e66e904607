//! From when to when a certificate is good, read from its DER: rustls judges it at the handshake and
//! tells nobody. Here too it goes by the wall clock of the machine, which is what certificates mean.
//!
//! ```text
//!  Certificate { tbs { [0] version?, serial, algorithm, issuer, validity { from, to }, … }, … }
//! ```

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

/// A wait for the end of a certificate looks at the clock again after this time: the clock may be set,
/// and the machine may sleep.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// So many days ahead the end of a certificate is warned of, at most.
const WARN_DAYS: i64 = 30;

/// Seconds since 1970, the last one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from_s: i64,
    pub to_s: i64,
}

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The wall clock, in seconds since 1970.
pub fn now_s() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

impl Validity {
    /// Of a certificate; `None` for what is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (whole, _) = element(certificate, SEQUENCE)?;
        let (tbs, _) = element(whole, SEQUENCE)?;
        let rest = element(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
        let serial = any(rest)?.2;
        let algorithm = any(serial)?.2;
        let issuer = any(algorithm)?.2;
        let (validity, _) = element(issuer, SEQUENCE)?;
        let (from_tag, from, rest) = any(validity)?;
        let (to_tag, to, _) = any(rest)?;
        Some(Self { from_s: seconds(from_tag, from)?, to_s: seconds(to_tag, to)? })
    }

    /// In which the first of a chain is good, whose owner it names. What comes after it need not be
    /// on the way by which it was verified.
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        chain.first().and_then(Self::of)
    }

    /// Seconds until it is over; none or less when it is.
    pub fn left_s(self, now_s: i64) -> i64 {
        self.to_s.saturating_sub(now_s).saturating_add(1)
    }

    /// Whether it should have been renewed by now: less than a third of its life is left, which is
    /// when those who renew by themselves do it, and no more than some days.
    pub fn is_nearly_over(self, now_s: i64) -> bool {
        let life_s = self.to_s.saturating_sub(self.from_s);
        self.left_s(now_s) < (life_s / 3).min(WARN_DAYS * 86_400)
    }

    /// Returns when it is over.
    pub async fn over(self) {
        loop {
            let left = Duration::from_secs(u64::try_from(self.left_s(now_s())).unwrap_or(0));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

/// Tag and content of the first element, and what follows it.
pub(super) fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            (digits.iter().fold(0, |all, it| (all << 8) | usize::from(*it)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The same, of an element that must have this tag.
pub(super) fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any(bytes).filter(|(found, _, _)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// `YYMMDDHHMMSSZ` from 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
pub(super) fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |all, it| all * 10 + i64::from(it - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year);
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year), rest)
        }
        _ => return None,
    };
    let mut parts = rest.chunks_exact(2).map(number);
    let (month, day) = (parts.next()?, parts.next()?);
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    Some(days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970 of a date of our calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_validity_of_a_certificate_is_read() {
        let key = KeyPair::generate().expect("a key");
        let at = |year| rcgen::date_time_ymd(year, 2, 28) + Duration::from_secs(3_661);
        // Two digits of a year until 2049, four from 2050 on.
        for (from, to) in [(1999, 2024), (2049, 2050), (1950, 4000)] {
            let mut params = CertificateParams::new(vec!["a".to_owned()]).expect("a name");
            (params.not_before, params.not_after) = (at(from), at(to));
            let signed = params.self_signed(&key).expect("signed");
            let der: &CertificateDer<'_> = signed.der();
            let read = Validity::of(der).expect("it is one");
            let as_told = |it: CertificateParams| {
                (it.not_before.unix_timestamp(), it.not_after.unix_timestamp())
            };
            assert_eq!((read.from_s, read.to_s), as_told(params), "{from} to {to}");
            for end in 0..der.len().min(200) {
                assert_eq!(Validity::of(&CertificateDer::from(&der[..end])), None, "cut at {end}");
            }
        }
    }

    #[test]
    fn dates_are_counted_as_the_calendar_does() {
        assert_eq!((days(1970, 1, 1), days(2000, 2, 29), days(2000, 3, 1)), (0, 11_016, 11_017));
        assert_eq!(seconds(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(seconds(GENERALIZED_TIME, b"20240229235959Z"), Some(1_709_251_199));
        for bad in [b"700101000000".as_slice(), b"7001010000Z", b"70010100000aZ", b""] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_chain_is_good_while_all_of_it_is() {
        let one = Validity { from_s: 5, to_s: 9 };
        assert_eq!((one.left_s(9), one.left_s(10), one.left_s(2)), (1, 0, 8));
        assert_eq!(Validity::of_chain(&[]), None);
    }

    #[test]
    fn a_certificate_is_nearly_over_in_the_last_third_of_its_life_or_the_last_days() {
        let day = 86_400;
        let nearly =
            |life: i64, left: i64| Validity { from_s: 0, to_s: life }.is_nearly_over(life - left);
        assert!(!nearly(day, day / 2) && nearly(day, day / 4), "for a day");
        assert!(!nearly(90 * day, 31 * day) && nearly(90 * day, 29 * day), "for three months");
        assert!(!nearly(3650 * day, 31 * day) && nearly(3650 * day, 29 * day), "for ten years");
    }
}
