//! The laws that stand as a condition somewhere in the core, by name, so that the simulation can
//! turn each of them off and must notice that.

/// The enumeration, and the list of all of it: one that is missing there would be tried by nobody.
macro_rules! laws {
    ($($(#[$doc:meta])* $law:ident,)*) => {
        /// One law of the design, section 3.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Law {
            $($(#[$doc])* $law,)*
        }

        impl Law {
            #[cfg(test)]
            pub(super) const ALL: &[Law] = &[$(Law::$law,)*];
        }
    };
}
laws! {
    /// 1: a deadline counts from the departure of the call, not from its answer.
    CountFromDeparture,
    /// 3: an acquire of unknown outcome is cancelled, not forgotten.
    UnknownIsNotNo,
    /// 3: a renewal of unknown outcome proves nothing.
    TimeoutIsNoSuccess,
    /// 4: an intent is durable before its call leaves.
    IntentBeforeAction,
    /// 6: now is compared with the deadline at each look.
    CheckAtUse,
    /// 7: a lost lease never becomes held again.
    LostForEver,
    /// 7: what stands in the place of a broken lease is not ended while that may be believed.
    BreakGivesGrace,
    /// 7: whoever gives back what was taken away before hears that.
    ReleaseTellsLoss,
    /// 8: a fence that does not rise is refused.
    FencesRise,
    /// 9: what is attached to a session ends with it.
    AttachedEnds,
    /// 9: what several processes share ends with the last of them.
    LastEnds,
    /// 9: what is held for others stays theirs for a while after its holder was killed.
    HolderLingers,
    /// 11: a held lease is renewed long before its deadline.
    RenewEarly,
    /// 11: a lease is read back, however sure we are.
    VerifyOften,
    /// 12: nothing in the journal is held until the store confirmed it.
    RestartRenews,
}
