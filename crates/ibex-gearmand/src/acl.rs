//! Who may do what: the rules of `acl_file`, and who a peer is.
//!
//! A line is a rule: whom it is for, then what those may do. A peer may do what any rule that is for it says; what none says is refused. Nothing here
//! answers anybody.
//!
//! ```text
//! # whom                 what
//! cn=thumbs-*            work thumbs.*
//! cn=web*                submit thumbs.* submit feeds.*
//! token=s3cret           admin status
//! addr=10.0.0.0/8        status
//! unix                   all
//! *                      submit public.*
//! ```

use std::net::IpAddr;

use bytes::Bytes;
use ibex_gearman_proto::{AdminCommand, Request};
use subtle::ConstantTimeEq as _;

/// `auth=` and the token are the name of an option, of 63 bytes.
const TOKEN_BYTES_MAX: usize = 58;
/// The option by which a peer shows a token.
pub(crate) const AUTH: &[u8] = b"auth=";

/// Who a peer is.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// `None` for Unix sockets.
    pub(crate) addr: Option<IpAddr>,
    /// The common name of its certificate.
    pub(crate) name: Option<Vec<u8>>,
    /// The last token it has shown that some rule knows.
    pub(crate) token: Option<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Anyone,
    Name(Vec<u8>),
    Token(Vec<u8>),
    Network(IpAddr, u32),
    Unix,
}

#[derive(Debug, PartialEq, Eq)]
enum Grant {
    Submit(Vec<u8>),
    Work(Vec<u8>),
    Admin,
    Status,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act<'a> {
    Submit(&'a [u8]),
    Work(&'a [u8]),
    Admin,
    Status,
}

/// The rules.
#[derive(Debug, Default)]
pub(crate) struct Acl {
    rules: Vec<(Who, Vec<Grant>)>,
}

impl Acl {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn open(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Self::parse(&text).map_err(|error| format!("{path}: {error}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let rule = rule(line).map_err(|error| format!("line {number}: {error}"))?;
            rules.push(rule);
        }
        Ok(Self { rules })
    }

    /// Whether some rule is for those who show this token.
    pub(crate) fn knows(&self, token: &[u8]) -> bool {
        // All are compared, so that the time tells nothing.
        self.rules.iter().fold(false, |found, (who, _)| {
            found | matches!(who, Who::Token(known) if bool::from(known[..].ct_eq(token)))
        })
    }

    /// Whether a token opens anything.
    pub(crate) fn has_tokens(&self) -> bool {
        let mut whom = self.rules.iter().map(|(who, _)| who);
        whom.any(|who| matches!(who, Who::Token(_)))
    }

    /// Whether the peer may send this packet. Jobs are finished and given back by whoever holds them; for following them see
    /// [`may_follow`](Self::may_follow).
    pub(crate) fn allows(&self, peer: &Identity, request: &Request<'_>) -> bool {
        match *request {
            Request::Submit(ref submit) => self.grants(peer, Act::Submit(submit.function)),
            Request::CanDo { function } | Request::CanDoTimeout { function, .. } => {
                self.grants(peer, Act::Work(function))
            }
            Request::CantDo { .. }
            | Request::ResetAbilities
            | Request::PreSleep
            | Request::GrabJob(_)
            | Request::WorkStatus { .. }
            | Request::WorkComplete { .. }
            | Request::WorkFail { .. }
            | Request::WorkException { .. }
            | Request::WorkData { .. }
            | Request::WorkWarning { .. }
            | Request::Touch { .. }
            | Request::Nack { .. }
            | Request::GetStatus { .. }
            | Request::GetStatusUnique { .. }
            | Request::Attach { .. }
            | Request::Echo { .. }
            | Request::SetClientId { .. }
            | Request::AllYours
            | Request::Option { .. } => true,
        }
    }

    /// Whether the peer may hear how a job of this function goes and ends; without a function, any job. Handles are numbers in a row: whoever guesses one must
    /// not get another's result.
    pub(crate) fn may_follow(&self, peer: &Identity, function: Option<&[u8]>) -> bool {
        if self.grants(peer, Act::Status) {
            return true;
        }
        match function {
            Some(function) => self.grants(peer, Act::Submit(function)),
            None => self.rules.iter().any(|(who, grants)| {
                who.is(peer) && grants.contains(&Grant::Submit(b"*".to_vec()))
            }),
        }
    }

    /// Whether the peer may give this command. Everybody may ask for the version: health checks do.
    pub(crate) fn allows_command(&self, peer: &Identity, command: &AdminCommand<'_>) -> bool {
        match command {
            AdminCommand::Version
            | AdminCommand::ShowUnknown
            | AdminCommand::Incomplete(_)
            | AdminCommand::Unknown(_) => true,
            AdminCommand::GetPid
            | AdminCommand::Verbose
            | AdminCommand::Status
            | AdminCommand::PriorityStatus
            | AdminCommand::Workers
            | AdminCommand::ShowJobs
            | AdminCommand::ShowUniqueJobs
            | AdminCommand::ShowJob(_)
            | AdminCommand::ShowFunctions
            | AdminCommand::ShowDead(_)
            | AdminCommand::ShowSchedules
            | AdminCommand::PerlJobs
            | AdminCommand::PerlClients
            | AdminCommand::Metrics => self.grants(peer, Act::Status),
            AdminCommand::CancelJob(_)
            | AdminCommand::CreateFunction(_)
            | AdminCommand::DropFunction(_)
            | AdminCommand::DropDead(_)
            | AdminCommand::DropSchedule { .. }
            | AdminCommand::RetryDead(_)
            | AdminCommand::MaxQueue { .. }
            | AdminCommand::LimitRunning { .. }
            | AdminCommand::LimitRate { .. }
            | AdminCommand::Pause(_)
            | AdminCommand::Resume(_)
            | AdminCommand::Purge { .. }
            | AdminCommand::Drain(_)
            | AdminCommand::Reload
            | AdminCommand::Shutdown { .. } => self.grants(peer, Act::Admin),
        }
    }

    fn grants(&self, peer: &Identity, act: Act<'_>) -> bool {
        self.rules
            .iter()
            .filter(|(who, _)| who.is(peer))
            .flat_map(|(_, grants)| grants)
            .any(|grant| match (grant, act) {
                (Grant::Submit(glob), Act::Submit(function))
                | (Grant::Work(glob), Act::Work(function)) => matches_glob(glob, function),
                (Grant::Admin, Act::Admin) | (Grant::Status, Act::Status) => true,
                (Grant::Submit(_) | Grant::Work(_) | Grant::Admin | Grant::Status, _) => false,
            })
    }
}

impl Who {
    fn is(&self, peer: &Identity) -> bool {
        match self {
            Self::Anyone => true,
            Self::Unix => peer.addr.is_none(),
            Self::Name(glob) => peer
                .name
                .as_ref()
                .is_some_and(|name| matches_glob(glob, name)),
            Self::Token(token) => peer.token.as_ref().is_some_and(|shown| shown == token),
            Self::Network(network, bits) => peer
                .addr
                .is_some_and(|addr| is_within(addr.to_canonical(), *network, *bits)),
        }
    }
}

fn rule(line: &str) -> Result<(Who, Vec<Grant>), String> {
    let mut words = line.split_whitespace();
    let who = who(words.next().unwrap_or_default())?;
    let mut grants = Vec::new();
    while let Some(word) = words.next() {
        let mut glob = || {
            let glob = words.next().map(|glob| glob.as_bytes().to_vec());
            glob.ok_or_else(|| format!("{word} needs the name of a function, * and ? in it"))
        };
        match word {
            "submit" => grants.push(Grant::Submit(glob()?)),
            "work" => grants.push(Grant::Work(glob()?)),
            "admin" => grants.push(Grant::Admin),
            "status" => grants.push(Grant::Status),
            "all" => grants.extend([
                Grant::Submit(b"*".to_vec()),
                Grant::Work(b"*".to_vec()),
                Grant::Admin,
                Grant::Status,
            ]),
            _ => {
                return Err(format!(
                    "{word:?} is none of submit, work, admin, status, all"
                ));
            }
        }
    }
    if grants.is_empty() {
        return Err("says nothing of what they may do".to_owned());
    }
    Ok((who, grants))
}

fn who(word: &str) -> Result<Who, String> {
    let bad = || format!("{word:?} is none of *, unix, cn=NAME, token=TEXT, addr=NETWORK");
    match word.split_once('=') {
        None if word == "*" => Ok(Who::Anyone),
        None if word == "unix" => Ok(Who::Unix),
        Some(("cn", glob)) if !glob.is_empty() => Ok(Who::Name(glob.as_bytes().to_vec())),
        Some(("token", token)) if (1..=TOKEN_BYTES_MAX).contains(&token.len()) => {
            Ok(Who::Token(token.as_bytes().to_vec()))
        }
        Some(("token", _)) => Err(format!("a token has 1 to {TOKEN_BYTES_MAX} bytes")),
        Some(("addr", network)) => {
            let (addr, bits) = network.split_once('/').unwrap_or((network, ""));
            let addr: IpAddr = addr.parse().map_err(|_| bad())?;
            let bits_max = if addr.is_ipv4() { 32 } else { 128 };
            let bits = match bits {
                "" => bits_max,
                bits => bits
                    .parse()
                    .ok()
                    .filter(|n| *n <= bits_max)
                    .ok_or_else(bad)?,
            };
            Ok(Who::Network(addr.to_canonical(), bits))
        }
        _ => Err(bad()),
    }
}

fn is_within(addr: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (addr, network, width) = match (addr, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    (addr ^ network).checked_shr(width - bits).unwrap_or(0) == 0
}

/// `*` is any bytes, `?` one byte. Linear in time but for the last star, to which it goes back.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match &mut star {
                None => return false,
                Some((star_at, taken)) => {
                    *taken += 1;
                    (at, from) = (*star_at + 1, *taken);
                }
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use ibex_gearman_proto::Submit;

    use super::*;

    fn peer(addr: &str) -> Identity {
        Identity {
            addr: Some(addr.parse().unwrap()),
            ..Identity::default()
        }
    }

    fn may_submit(acl: &Acl, peer: &Identity, function: &str) -> bool {
        acl.allows(
            peer,
            &Request::Submit(Submit::new(function.as_bytes(), b"", b"")),
        )
    }

    fn may_work(acl: &Acl, peer: &Identity, function: &str) -> bool {
        let function = function.as_bytes();
        acl.allows(peer, &Request::CanDo { function })
    }

    #[test]
    fn a_rule_is_for_names_tokens_and_networks() {
        let text = "# rules\n\ncn=web-? submit a.* status\n token=s3 work *\naddr=10.0.0.0/8 admin\naddr=2001:db8::/32 submit six\nunix all\n";
        let acl = Acl::parse(text).unwrap();
        let stranger = peer("192.0.2.1");
        assert!(!may_submit(&acl, &stranger, "a.x") && !may_work(&acl, &stranger, "a.x"));
        assert!(acl.allows(
            &stranger,
            &Request::GrabJob(ibex_gearman_proto::Grab::Plain)
        ));
        assert!(acl.allows_command(&stranger, &AdminCommand::Version));
        assert!(!acl.allows_command(&stranger, &AdminCommand::Status));
        let web = Identity {
            name: Some(b"web-1".to_vec()),
            ..peer("192.0.2.1")
        };
        assert!(may_submit(&acl, &web, "a.x") && !may_submit(&acl, &web, "b.x"));
        assert!(!may_work(&acl, &web, "a.x") && acl.allows_command(&web, &AdminCommand::Status));
        assert!(!acl.allows_command(&web, &AdminCommand::Drain(true)));
        assert!(acl.knows(b"s3") && !acl.knows(b"s") && !acl.knows(b"s33"));
        let worker = Identity {
            token: Some(Bytes::from_static(b"s3")),
            ..peer("192.0.2.1")
        };
        assert!(may_work(&acl, &worker, "anything") && !may_submit(&acl, &worker, "a.x"));
        let inside = peer("::ffff:10.9.8.7");
        assert!(acl.allows_command(&inside, &AdminCommand::Drain(true)));
        assert!(!acl.allows_command(&peer("11.0.0.1"), &AdminCommand::Drain(true)));
        assert!(may_submit(&acl, &peer("2001:db8:9::1"), "six"));
        assert!(!may_submit(&acl, &peer("2001:db9::1"), "six"));
        let local = Identity::default();
        assert!(may_work(&acl, &local, "x") && acl.allows_command(&local, &AdminCommand::Reload));
    }

    #[test]
    fn a_bad_file_says_where() {
        for (text, expected) in [
            ("* fly", "line 1: \"fly\" is none of"),
            ("\n*", "line 2: says nothing"),
            ("* submit", "line 1: submit needs"),
            ("me all", "line 1: \"me\" is none of"),
            (
                "addr=10.0.0.0/33 all",
                "line 1: \"addr=10.0.0.0/33\" is none of",
            ),
            ("token= all", "line 1: a token has 1 to 58 bytes"),
        ] {
            let error = Acl::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn globs_match_whole_names() {
        for (glob, text, expected) in [
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?", "", false),
            ("ab", "abc", false),
            ("*ab", "aab", true),
            ("**a**", "a", true),
        ] {
            assert_eq!(
                matches_glob(glob.as_bytes(), text.as_bytes()),
                expected,
                "{glob} {text}"
            );
        }
    }

    #[test]
    fn a_network_of_no_bits_is_everybody() {
        let acl = Acl::parse("addr=0.0.0.0/0 status\naddr=192.0.2.7 admin").unwrap();
        assert!(acl.allows_command(&peer("203.0.113.9"), &AdminCommand::Status));
        assert!(!acl.allows_command(&peer("::1"), &AdminCommand::Status));
        assert!(acl.allows_command(&peer("192.0.2.7"), &AdminCommand::Reload));
        assert!(!acl.allows_command(&peer("192.0.2.6"), &AdminCommand::Reload));
    }
}
