//! Who may do what: pure. Facts about a caller come from the kernel (`server::peer`), rules from
//! the configuration; nothing here asks anybody.

mod who;

use std::collections::BTreeSet;
use std::fmt;

use stormlock_protocol::name::{Resource, Ttl};

#[cfg(test)]
pub(crate) use self::who::known;
pub use self::who::{GroupNames, Who};
use crate::lease::Uid;

/// The group whose members may acquire when there are no rules.
pub const GROUP: &str = "stormlock";
/// Most leases of one user at once, unless a rule says fewer: far above what a person or a pipeline
/// holds, and a bound on what one account can make the agent keep renewing.
pub const LEASES_MAX: usize = 256;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// See locks.
    Read,
    /// Take a lock, and renew and release one's own.
    Acquire,
    /// Renew or release by id what another took.
    ReleaseAny,
    /// Take a lock away from its holder.
    Break,
}

impl Act {
    /// All of them, in the order in which messages name them.
    pub const ALL: [Act; 4] = [Act::Read, Act::Acquire, Act::ReleaseAny, Act::Break];

    /// As a rule spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Act::Read => "read",
            Act::Acquire => "acquire",
            Act::ReleaseAny => "release-any",
            Act::Break => "break",
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Act::Read => "see",
            Act::Acquire => "acquire",
            Act::ReleaseAny => "release or renew another's lease on",
            Act::Break => "break",
        }
    }
}

/// Where in the configuration something stands that was decided by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is built in.
    #[default]
    BuiltIn,
    /// In a rule.
    Rule {
        /// Its place among the rules; 1 is the first.
        number: usize,
        /// The line on which it begins.
        line: usize,
    },
    /// In what is said of a resource.
    Resource {
        /// The line of its names.
        line: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::BuiltIn => f.write_str("the agent's own limit"),
            Source::Rule { number, line } => {
                write!(f, "rule {number} (line {line} of the configuration)")
            }
            Source::Resource { line } => {
                write!(f, "[[resource]] (line {line} of the configuration)")
            }
        }
    }
}

/// What an allowed request has to keep to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// What allows it, and says how many leases, and whether with a reason.
    pub by: Source,
    /// Longest ttl.
    pub max_ttl: Option<Ttl>,
    /// What says so.
    pub ttl_by: Source,
    /// Longest hold, in seconds; with one, `--keep` is refused.
    pub max_hold_secs: Option<u32>,
    /// What says so.
    pub hold_by: Source,
    /// Most leases at once.
    pub max_leases: usize,
    /// A reason must be given.
    pub require_reason: bool,
}

impl Permit {
    /// The ttl of an acquire that names none: the default, or less where less is allowed. One that
    /// names a ttl is refused instead, for it said what it needs.
    #[must_use]
    pub fn unasked_ttl(&self, default: Ttl) -> Ttl {
        self.max_ttl.map_or(default, |max| max.min(default))
    }
}

/// Why not: which rule said so, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denial(pub String);

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The user of this name.
    User(String),
    /// Members of the group of this name.
    Group(String),
    /// The user of this number.
    Uid(Uid),
    /// Whoever can connect.
    Everyone,
}

impl Subject {
    /// `None` when that is not known.
    fn covers(&self, who: &Who) -> Option<bool> {
        match self {
            Subject::User(name) => who.is_called(name),
            Subject::Group(name) => who.is_in(name),
            Subject::Uid(uid) => Some(who.uid == *uid),
            Subject::Everyone => Some(true),
        }
    }
}

/// A pattern of resources: `*` is any run of characters, also of `/`; `?` is any one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// A pattern; the configuration has checked that a resource can match it.
    #[must_use]
    pub fn new(pattern: impl Into<String>) -> Glob {
        Glob(pattern.into())
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the resource's whole name fits.
    #[must_use]
    pub fn matches(&self, resource: &Resource) -> bool {
        let (mut pattern, mut name) = (self.0.as_bytes(), resource.as_str().as_bytes());
        // Where to go on when the last `*` has to swallow one more character. Only the last star
        // is ever retried, so the work is bounded by the product of the two lengths.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), name.split_first()) {
                (Some((b'*', after)), _) => {
                    pattern = after;
                    retry = Some((after, name));
                }
                (Some((want, after)), Some((have, left))) if *want == b'?' || want == have => {
                    (pattern, name) = (after, left);
                }
                (None, None) => return true,
                _ => {
                    let Some((after, [_, left @ ..])) = retry else { return false };
                    (pattern, name) = (after, left);
                    retry = Some((after, left));
                }
            }
        }
    }
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The line of the configuration on which it begins.
    pub line: usize,
    /// Whom it is about: any of these.
    pub who: Vec<Subject>,
    /// What it is about: any of these.
    pub resources: Vec<Glob>,
    /// What it allows. Each act but `read` implies `read`.
    pub may: Vec<Act>,
    /// What an allowed request has to keep to.
    pub permit: Permit,
}

impl Rule {
    fn source(&self, index: usize) -> Source {
        Source::Rule { number: index + 1, line: self.line }
    }

    /// Whether it lets those whom it is about do that.
    #[must_use]
    pub fn allows(&self, act: Act) -> bool {
        self.may.contains(&act) || (act == Act::Read && !self.may.is_empty())
    }

    /// `None` when it is not known whether it is about them.
    fn covers(&self, who: &Who, on: Option<&Resource>) -> Option<bool> {
        if !on.is_none_or(|name| self.is_on(name)) {
            return Some(false);
        }
        let each = || self.who.iter().map(|subject| subject.covers(who));
        let is_sure = each().any(|covers| covers == Some(true));
        (is_sure || each().all(|covers| covers.is_some())).then_some(is_sure)
    }

    fn is_on(&self, name: &Resource) -> bool {
        self.resources.iter().any(|glob| glob.matches(name))
    }

    /// True when no later rule decides about any resource.
    fn is_on_all(&self) -> bool {
        self.resources.iter().any(|glob| glob.0.bytes().all(|byte| byte == b'*'))
    }
}

/// What a resource allows at most, whoever asks.
#[derive(Debug, Clone)]
pub struct Cap {
    /// The line of the configuration that names the resources.
    pub line: usize,
    /// The resources: any of these.
    pub names: Vec<Glob>,
    /// Longest ttl.
    pub max_ttl: Option<Ttl>,
    /// Longest hold, in seconds.
    pub max_hold_secs: Option<u32>,
}

/// The rules; the first that matches decides.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Rules,
    caps: Vec<Cap>,
    /// The groups that rules name.
    groups: BTreeSet<String>,
}

#[derive(Debug, Clone)]
enum Rules {
    /// The agent of a host without rules of its own.
    Host,
    /// The agent of one user without rules of its own.
    Only(Uid),
    Written(Vec<Rule>),
}

impl Policy {
    /// Everyone may read, members of [`GROUP`] may acquire, root may do all.
    #[must_use]
    pub fn host() -> Policy {
        Policy { groups: BTreeSet::from([GROUP.to_owned()]), ..Policy::of(Rules::Host) }
    }

    /// This user may do all, nobody else anything.
    #[must_use]
    pub fn only(uid: Uid) -> Policy {
        Policy::of(Rules::Only(uid))
    }

    /// What the configuration says. Whoever matches no rule may do nothing.
    #[must_use]
    pub fn written(rules: Vec<Rule>) -> Policy {
        let subjects = rules.iter().flat_map(|rule| &rule.who);
        let groups = subjects.filter_map(|subject| match subject {
            Subject::Group(name) => Some(name.clone()),
            Subject::User(_) | Subject::Uid(_) | Subject::Everyone => None,
        });
        Policy { groups: groups.collect(), ..Policy::of(Rules::Written(rules)) }
    }

    fn of(rules: Rules) -> Policy {
        Policy { rules, caps: Vec::new(), groups: BTreeSet::new() }
    }

    /// The groups that it goes by: of whoever is judged it should be known whether they are in
    /// these.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }

    /// The written rules that are about somebody, on whatever resources, each with its place; of
    /// two that match a resource the first decides.
    pub fn rules_about<'a>(&'a self, who: &'a Who) -> impl Iterator<Item = (Source, &'a Rule)> {
        let rules = self.written_rules().iter().enumerate();
        rules
            .filter(|(_, rule)| rule.covers(who, None) == Some(true))
            .map(|(index, rule)| (rule.source(index), rule))
    }

    fn written_rules(&self) -> &[Rule] {
        match &self.rules {
            Rules::Written(rules) => rules.as_slice(),
            Rules::Host | Rules::Only(_) => &[],
        }
    }

    /// Whom the written rules are about, each with the line of its rule.
    pub fn subjects(&self) -> impl Iterator<Item = (usize, &Subject)> {
        self.written_rules()
            .iter()
            .flat_map(|rule| rule.who.iter().map(move |subject| (rule.line, subject)))
    }

    /// The same with caps; of those, too, the first that matches a resource decides.
    #[must_use]
    pub fn with_caps(self, caps: Vec<Cap>) -> Policy {
        Policy { caps, ..self }
    }

    /// Whether `who` may do `act`. The first rule that matches `who` and `on` decides about every
    /// act. `on` is `None` for questions about no resource in particular: then somebody is allowed
    /// what a rule about them allows, unless one before it decides about all resources; and the
    /// answer must be judged again per resource.
    ///
    /// # Errors
    /// [`Denial`] says which rule, or that none, allows it.
    pub fn judge(&self, who: &Who, act: Act, on: Option<&Resource>) -> Result<Permit, Denial> {
        let mut permit = match &self.rules {
            Rules::Host => judge_host(who, act, on)?,
            Rules::Only(uid) if who.uid == *uid => Permit::default(),
            Rules::Only(uid) => {
                return Err(Denial(format!("this agent serves only the user with uid {}", uid.0)));
            }
            Rules::Written(rules) => judge_by(rules, who, act, on)?,
        };
        let cap = on.and_then(|name| self.caps.iter().find(|cap| cap.covers(name)));
        if let Some(cap) = cap {
            let by = Source::Resource { line: cap.line };
            if is_less(cap.max_ttl, permit.max_ttl) {
                (permit.max_ttl, permit.ttl_by) = (cap.max_ttl, by);
            }
            if is_less(cap.max_hold_secs, permit.max_hold_secs) {
                (permit.max_hold_secs, permit.hold_by) = (cap.max_hold_secs, by);
            }
        }
        Ok(permit)
    }
}

impl Cap {
    fn covers(&self, name: &Resource) -> bool {
        self.names.iter().any(|glob| glob.matches(name))
    }
}

impl Default for Permit {
    fn default() -> Permit {
        let by = Source::BuiltIn;
        Permit {
            by,
            max_ttl: None,
            ttl_by: by,
            max_hold_secs: None,
            hold_by: by,
            max_leases: LEASES_MAX,
            require_reason: false,
        }
    }
}

fn judge_host(who: &Who, act: Act, on: Option<&Resource>) -> Result<Permit, Denial> {
    let needed = match act {
        _ if act == Act::Read || who.uid == Uid(0) => return Ok(Permit::default()),
        Act::Acquire if who.is_in(GROUP) == Some(true) => return Ok(Permit::default()),
        Act::Acquire if who.is_in(GROUP).is_none() => return Err(unsure(who)),
        Act::Acquire => format!(
            "root and members of group `{GROUP}` may (root can add them: usermod -aG {GROUP} {}; \
             it counts from the next login)",
            who.user
        ),
        Act::Read | Act::ReleaseAny | Act::Break => "root may".to_owned(),
    };
    let asked = Asked { who, act, on };
    Err(Denial(format!("{asked}: without rules in the configuration only {needed}")))
}

fn judge_by(rules: &[Rule], who: &Who, act: Act, on: Option<&Resource>) -> Result<Permit, Denial> {
    let asked = Asked { who, act, on };
    let (mut first, mut is_unsure) = (None, false);
    for (index, rule) in rules.iter().enumerate() {
        match rule.covers(who, on) {
            Some(false) => {}
            Some(true) if rule.allows(act) => {
                let by = rule.source(index);
                return Ok(Permit { by, ttl_by: by, hold_by: by, ..rule.permit.clone() });
            }
            Some(true) => {
                first = first.or(Some((index, rule)));
                if on.is_some() || rule.is_on_all() {
                    break;
                }
            }
            // About nothing in particular one on some resources takes nothing away.
            None if on.is_none() && (rule.allows(act) || !rule.is_on_all()) => {
                is_unsure |= rule.allows(act);
            }
            // To see something is the same by whatever rule; all else has the limits of its own.
            None if act == Act::Read && rule.allows(act) => is_unsure = true,
            None => return Err(unsure(who)),
        }
    }
    if is_unsure {
        return Err(unsure(who));
    }
    let Some((index, rule)) = first else {
        return Err(Denial(format!("{asked}: no rule of the configuration matches")));
    };
    let allowed: Vec<_> = Act::ALL.iter().filter(|act| rule.allows(**act)).collect();
    let allowed = match allowed.as_slice() {
        [] => "nothing".to_owned(),
        acts => acts.iter().map(|act| act.as_str()).collect::<Vec<_>>().join(", "),
    };
    Err(Denial(format!("{asked}: {} decides and allows {allowed}", rule.source(index))))
}

/// A rule that decides about it may be about them or not.
fn unsure(who: &Who) -> Denial {
    Denial(format!(
        "the name of user {} or that of a group cannot be looked up now, and a rule goes by it; \
         try again in a moment",
        who.uid.0
    ))
}

/// How a denial begins: "maria may not acquire prod/db".
struct Asked<'a> {
    who: &'a Who,
    act: Act,
    on: Option<&'a Resource>,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = self.on.map_or("any resource", Resource::as_str);
        write!(f, "{} may not {} {on}", self.who.user, self.act.in_words())
    }
}

/// Whether one limit is below another; none is above all.
fn is_less<T: Ord>(one: Option<T>, other: Option<T>) -> bool {
    one.is_some_and(|one| other.is_none_or(|other| one < other))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::known as who;
    use super::*;

    fn on(name: &str) -> Resource {
        Resource::new(name).unwrap()
    }

    fn rule(line: usize, who: &[Subject], resources: &[&str], may: &[Act]) -> Rule {
        Rule {
            line,
            who: who.to_vec(),
            resources: resources.iter().map(|glob| Glob::new(*glob)).collect(),
            may: may.to_vec(),
            permit: Permit { max_leases: line, ..Permit::default() },
        }
    }

    #[test]
    fn a_glob_matches_the_whole_name() {
        for (glob, name, expected) in [
            ("prod/db", "prod/db", true),
            ("prod/db", "prod/db2", false),
            ("prod/db", "xprod/db", false),
            ("prod/*", "prod/a/b", true),
            ("prod/*", "prod/", true),
            ("prod/*", "prod", false),
            ("*", "a", true),
            ("**", "a", true),
            ("*/db", "a/b/db", true),
            ("*/db", "a/b/db/c", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("db?", "db1", true),
            ("db?", "db", false),
            ("db?", "db10", false),
            ("?*", "a", true),
            ("*?", "a", true),
            ("*.?", "a.b.c", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::new(glob).matches(&on(name)), expected, "{glob} on {name}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_is_decided_in_bounded_time() {
        let name = on(&"a".repeat(128));
        assert!(!Glob::new("*a".repeat(60) + "b").matches(&name));
    }

    #[test]
    fn without_rules_everyone_reads_the_group_acquires_and_root_does_all() {
        let (root, maria) = (who(0, "root", &["root"]), who(1000, "maria", &["ops", GROUP]));
        let eve = who(1001, "eve", &["eve"]);
        let policy = Policy::host();
        for (who, allowed) in [
            (&root, &Act::ALL[..]),
            (&maria, &[Act::Read, Act::Acquire][..]),
            (&eve, &[Act::Read][..]),
        ] {
            for act in Act::ALL {
                for on in [None, Some(&on("prod/db"))] {
                    let judged = policy.judge(who, act, on);
                    assert_eq!(judged.is_ok(), allowed.contains(&act), "{} {act:?}", who.user);
                    assert!(judged.is_err() || judged == Ok(Permit::default()));
                }
            }
        }
        assert_eq!(
            policy.judge(&eve, Act::Acquire, Some(&on("prod/db"))).unwrap_err().0,
            "eve may not acquire prod/db: without rules in the configuration only root and members \
             of group `stormlock` may (root can add them: usermod -aG stormlock eve; it counts \
             from the next login)"
        );
        assert_eq!(
            policy.judge(&maria, Act::Break, Some(&on("prod/db"))).unwrap_err().0,
            "maria may not break prod/db: without rules in the configuration only root may"
        );
    }

    #[test]
    fn an_agent_of_one_user_serves_nobody_else_not_even_root() {
        let policy = Policy::only(Uid(1000));
        for act in Act::ALL {
            assert!(policy.judge(&who(1000, "maria", &[]), act, Some(&on("a"))).is_ok());
            let denial = policy.judge(&who(0, "root", &[GROUP]), act, Some(&on("a"))).unwrap_err();
            assert_eq!(denial.0, "this agent serves only the user with uid 1000");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_every_act() {
        let policy = Policy::written(vec![
            rule(10, &[Subject::User("eve".into())], &["*"], &[]),
            rule(20, &[Subject::Group("ops".into())], &["prod/*"], &[Act::Acquire]),
            rule(30, &[Subject::Uid(Uid(7))], &["prod/*"], &[Act::Break]),
            rule(40, &[Subject::Everyone], &["prod/*", "test/*"], &[Act::Read]),
            rule(50, &[Subject::Group("ops".into())], &["*"], &[Act::Break, Act::ReleaseAny]),
        ]);
        let ops = who(7, "olga", &["ops"]);
        let eve = who(8, "eve", &["ops"]);
        let bob = who(9, "bob", &[]);
        let check = |who: &Who, act, name: Option<&str>, expected: Result<usize, &str>| {
            let name = name.map(on);
            let judged = policy.judge(who, act, name.as_ref());
            let judged = judged.map(|permit| permit.max_leases).map_err(|denial| denial.0);
            assert_eq!(judged, expected.map_err(str::to_owned), "{} {act:?} {name:?}", who.user);
        };
        check(&ops, Act::Acquire, Some("prod/db"), Ok(20));
        check(&ops, Act::Read, Some("prod/db"), Ok(20));
        check(&ops, Act::Break, Some("other"), Ok(50));
        check(&ops, Act::Read, Some("other"), Ok(50));
        check(&bob, Act::Read, Some("test/x"), Ok(40));
        check(
            &ops,
            Act::Break,
            Some("prod/db"),
            Err("olga may not break prod/db: rule 2 (line 20 of the configuration) decides and \
                 allows read, acquire"),
        );
        check(
            &ops,
            Act::ReleaseAny,
            Some("test/x"),
            Err("olga may not release or renew another's lease on test/x: rule 4 (line 40 of the \
                 configuration) decides and allows read"),
        );
        check(
            &eve,
            Act::Read,
            Some("prod/db"),
            Err("eve may not see prod/db: rule 1 (line 10 of the configuration) decides and \
                 allows nothing"),
        );
        check(
            &bob,
            Act::Read,
            Some("other"),
            Err("bob may not see other: no rule of the configuration matches"),
        );
        // About nothing in particular: what is allowed anywhere.
        check(&ops, Act::Break, None, Ok(30));
        check(&ops, Act::ReleaseAny, None, Ok(50));
        check(&bob, Act::Read, None, Ok(40));
        check(
            &bob,
            Act::Acquire,
            None,
            Err("bob may not acquire any resource: rule 4 (line 40 of the configuration) decides \
                 and allows read"),
        );
    }

    #[test]
    fn whose_names_are_not_known_gets_nothing_that_a_rule_could_take_away_by_name() {
        let may = |rules: Vec<Rule>, act, on: Option<&Resource>| {
            let nameless = Who { is_named: false, ..who(7, "7", &[]) };
            let groupless = Who { groups: Arc::default(), ..who(7, "eve", &[]) };
            let policy = Policy::written(rules);
            let may = policy.judge(&groupless, act, on).is_ok();
            // Without a rule about a user's name theirs is no matter.
            assert!(policy.judge(&nameless, act, on).is_ok() || !may);
            let certain = vec![rule(9, &[Subject::Uid(Uid(7))], &["*"], &Act::ALL)];
            let before = Policy::written([certain, policy.written_rules().to_vec()].concat());
            assert!(before.judge(&groupless, act, on).is_ok(), "what comes after is no matter");
            let about_users = |rule: &Rule| {
                let who = rule.who.iter().map(|subject| match subject {
                    Subject::Group(name) => Subject::User(name.clone()),
                    other => other.clone(),
                });
                Rule { who: who.collect(), ..rule.clone() }
            };
            let policy = Policy::written(policy.written_rules().iter().map(about_users).collect());
            assert_eq!(policy.judge(&nameless, act, on).is_ok(), may);
            may
        };
        let games = || vec![Subject::Group("games".to_owned())];
        let all = || rule(2, &[Subject::Everyone], &["*"], &[Act::Acquire]);
        let (db, web) = (on("secret/db"), on("web"));
        let denies = || rule(1, &games(), &["secret/*"], &[]);
        assert!(!may(vec![denies(), all()], Act::Read, Some(&db)));
        assert!(may(vec![denies(), all()], Act::Read, None), "something, if not all");
        assert!(!may(vec![rule(1, &games(), &["*"], &[]), all()], Act::Read, None));
        assert!(may(vec![denies(), all()], Act::Read, Some(&web)));
        assert!(may(vec![denies(), all()], Act::Acquire, Some(&web)));
        assert!(!may(vec![denies(), all()], Act::Acquire, Some(&db)));
        // What comes after the rule that decides changes nothing.
        assert!(may(vec![all(), denies()], Act::Read, Some(&db)));
        let gives = || rule(1, &games(), &["*"], &[Act::Break]);
        assert!(may(vec![gives(), all()], Act::Read, Some(&db)));
        assert!(!may(vec![gives(), all()], Act::Acquire, Some(&db)), "each has its own limits");
        assert!(!may(vec![gives()], Act::Read, Some(&db)), "they may be in another group");
    }

    #[test]
    fn after_a_rule_about_all_resources_none_gives_anything() {
        let denied = Subject::Group("games".to_owned());
        let rules = |globs: &[&str]| {
            let first = rule(1, std::slice::from_ref(&denied), globs, &[]);
            vec![first, rule(2, &[Subject::Everyone], &["*"], &[Act::Acquire])]
        };
        let eve = who(7, "eve", &["games"]);
        for all in [&["*"][..], &["a", "**"]] {
            let policy = Policy::written(rules(all));
            assert!(policy.judge(&eve, Act::Read, None).is_err());
            assert!(policy.judge(&who(8, "maria", &[]), Act::Read, None).is_ok());
        }
        assert!(Policy::written(rules(&["a*"])).judge(&eve, Act::Read, None).is_ok());
    }

    #[test]
    fn the_smaller_of_rule_and_cap_counts() {
        let ttl = |secs| Ttl::from_secs(secs).unwrap();
        let cap = |glob: &str, secs, hold| Cap {
            line: 7,
            names: vec![Glob::new(glob)],
            max_ttl: Some(ttl(secs)),
            max_hold_secs: hold,
        };
        let mut everyone = rule(1, &[Subject::Everyone], &["*"], &[Act::Acquire]);
        everyone.permit.max_ttl = Some(ttl(60));
        everyone.permit.max_hold_secs = Some(600);
        let policy = Policy::written(vec![everyone]).with_caps(vec![
            cap("short", 30, None),
            cap("long", 90, Some(300)),
            cap("*o*", 1, Some(1)),
        ]);
        for (name, secs, hold) in
            [("short", 30, 600), ("long", 60, 300), ("other", 1, 1), ("x", 60, 600)]
        {
            let permit = policy.judge(&who(5, "u", &[]), Act::Acquire, Some(&on(name))).unwrap();
            assert_eq!(permit.max_ttl, Some(ttl(secs)), "{name}");
            assert_eq!(permit.max_hold_secs, Some(hold), "{name}");
            let rule = Source::Rule { number: 1, line: 1 };
            let of = |is_rule| if is_rule { rule } else { Source::Resource { line: 7 } };
            assert_eq!((permit.by, permit.ttl_by), (rule, of(secs == 60)), "{name}");
            assert_eq!(permit.hold_by, of(hold == 600), "{name}");
        }
    }

    #[test]
    fn an_acquire_that_names_no_ttl_gets_the_default_or_what_is_allowed() {
        let ttl = |secs| Ttl::from_secs(secs).unwrap();
        let permit = |max_ttl| Permit { max_ttl, ..Permit::default() };
        assert_eq!(permit(None).unasked_ttl(ttl(900)), ttl(900));
        assert_eq!(permit(Some(ttl(60))).unasked_ttl(ttl(900)), ttl(60));
        assert_eq!(permit(Some(ttl(1000))).unasked_ttl(ttl(900)), ttl(900));
    }
}
