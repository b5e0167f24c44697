//! Decides which texts run next. Everything here depends only on sizes, not on threads, clocks or clients. The engine's plan groups
//! the texts of a batch by adapter.
//!
//! # Fairness
//!
//! Requests wait in *flows*, and a flow is an adapter. Batches take from the flows by deficit round robin (Shreedhar and Varghese,
//! 1995): a round visits each flow once, each visit grants the flow tokens, and the flow sends as many of its texts as the tokens
//! granted to it pay for. What is left over stays with the flow until it is empty.
//!
//! A flow is *crowded* if more than [`CROWD`] quanta wait in it after it has sent. Requests of others feel it least if it is apart from
//! them: where both kinds have work, a round is split between two batches, and the first has the flows that are not crowded. So most
//! requests of an adapter that is asked rarely wait only for the batch that runs when they arrive, and run in a short batch. A visit
//! grants `Q` tokens, the quantum, to a crowded flow, and `2 Q` to any other. With texts of at most `m` tokens and `F` flows that have
//! work:
//!
//! - **A flow gets its share.** A flow that always has work sends at least `n Q - m` tokens in `n` rounds. Two crowded flows never
//!   differ by more than `2 Q + 3 m` tokens in what they have sent, however many requests wait in either. Beside a flow that always has
//!   work and is not crowded, a crowded one sends half as much, up to the same difference.
//! - **A newcomer does not wait for the crowd.** Before the first `t` tokens of a flow that was empty have been sent, at most
//!   `(F - 1) (2 ceil(t / Q) Q + 2 m)` tokens of other flows are sent, besides the batch that runs when they arrive.
//! - **A large request does not block small ones.** Within a flow, a request that has sent `turn` tokens goes behind the flow's other
//!   requests, and continues when they have had their turns.
//!
//! # Batches
//!
//! A batch takes one round, or one part of a split one. It takes more only while it is smaller than [`Budget::target`], so that a long
//! queue of one flow does not make batches, and with them everyone's wait, longer than is useful. The target is small while flows
//! that have no work are asked often, so that a busy flow alone does not fill a batch just before they are back (`arrivals`). Nothing
//! waits for a batch to fill up.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The number of tokens that a visit grants a crowded flow. It is that of a usual text, so that a crowded flow adds little to the batches
/// of other flows. A flow that is not crowded gets twice as many, so that usual texts do not wait for a second batch.
pub(super) const QUANTUM: usize = 32;

/// A flow is crowded if more than this many quanta wait in it. Connections that share the machine evenly stay below it.
const CROWD: usize = 8;

/// Tokens that a request sends before the next request of its adapter.
pub(super) const TURN: usize = 256;

/// A part of a request, which runs in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part<P> {
    /// The tokens that it is charged, at least 1.
    pub(super) cost: usize,
    /// What runs.
    pub(super) work: P,
}

/// The size of a batch, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// The maximum. A part that is larger runs alone.
    pub(super) most: usize,
    /// The batch takes further rounds until it has this size.
    pub(super) target: usize,
}

/// The waiting parts of requests `R`, in flows that `K` names.
pub(super) struct FairQueue<K, R, P> {
    /// The flows that have work.
    flows: HashMap<K, Flow<R, P>>,
    /// The same flows in the order in which they are visited.
    turns: VecDeque<K>,
    /// Tokens that wait.
    tokens: usize,
    /// Tokens that a visit grants a crowded flow.
    quantum: usize,
    /// Tokens that a request sends before the next request of its flow.
    turn: usize,
    /// The last round, unless a full batch has interrupted it.
    last: Option<Round>,
}

struct Flow<R, P> {
    /// The requests in the order of their turns. Each has parts.
    requests: VecDeque<Waiting<R, P>>,
    /// Tokens that wait.
    tokens: usize,
    /// Tokens that were granted and not used yet.
    deficit: usize,
    /// Whether the current visit has granted its quantum. A batch that is full interrupts a visit, and the next batch continues it.
    visited: bool,
    /// Whether [`CROWD`] quanta waited when it had last sent.
    crowded: bool,
    /// Whether the first part of a split round visited it.
    early: bool,
}

/// Which flows a round visits.
#[derive(Clone, Copy)]
enum Round {
    All,
    /// The first part of a split round: flows that are not crowded.
    Early,
    /// The second part: all flows that the first did not visit.
    Late,
}

/// A request whose parts have not all been sent.
pub(super) struct Waiting<R, P> {
    request: R,
    parts: VecDeque<Part<P>>,
    /// Tokens sent in this turn.
    sent: usize,
}

/// How a visit to a flow ended.
enum Visit {
    /// The flow has no more work.
    Empty,
    /// The flow has used up its tokens.
    Spent,
    /// The batch has no room for the flow's next part.
    Full,
}

/// The tokens that a visit grants a flow.
fn granted(crowded: bool, quantum: usize) -> usize {
    if crowded { quantum } else { quantum.saturating_mul(2) }
}

impl<R, P> Waiting<R, P> {
    fn tokens(&self) -> usize {
        self.parts.iter().map(|part| part.cost).sum()
    }
}

impl<R, P> Flow<R, P> {
    fn new() -> Self {
        Self { requests: VecDeque::new(), tokens: 0, deficit: 0, visited: false, crowded: false, early: false }
    }

    /// The cost of the next part.
    fn next_cost(&self) -> Option<usize> {
        self.requests.front()?.parts.front().map(|part| part.cost)
    }

    /// Sends the next part. Its request ends, keeps its turn, or goes behind the others.
    fn send(&mut self, turn: usize) -> Option<Part<P>> {
        let request = self.requests.front_mut()?;
        let part = request.parts.pop_front()?;
        request.sent += part.cost;
        if request.parts.is_empty() {
            self.requests.pop_front();
        } else if request.sent >= turn {
            request.sent = 0;
            self.requests.rotate_left(1);
        }
        self.tokens -= part.cost;
        self.deficit -= part.cost;
        Some(part)
    }

    /// Starts a visit, which grants `quantum` tokens or twice as many, unless a full batch has interrupted one.
    fn begin(&mut self, quantum: usize) {
        if !self.visited {
            self.deficit = self.deficit.saturating_add(granted(self.crowded, quantum));
            self.visited = true;
        }
    }

    /// Whether the round visits it.
    fn is_visited(&mut self, round: Round) -> bool {
        match round {
            Round::All => {
                self.early = false;
                true
            }
            Round::Early => {
                self.early = !self.crowded;
                self.early
            }
            Round::Late => !std::mem::take(&mut self.early),
        }
    }

    /// Sends to `batch`, which has `tokens` tokens already, until the visit ends.
    fn visit(&mut self, turn: usize, most: usize, batch: &mut Vec<P>, tokens: &mut usize) -> Visit {
        while let Some(cost) = self.next_cost() {
            if cost > self.deficit {
                self.visited = false;
                return Visit::Spent;
            }
            if !batch.is_empty() && tokens.saturating_add(cost) > most {
                return Visit::Full;
            }
            batch.extend(self.send(turn).map(|part| part.work));
            *tokens += cost;
        }
        Visit::Empty
    }
}

impl<K: Clone + Eq + Hash, R, P> FairQueue<K, R, P> {
    /// An empty queue, in which each visit grants a crowded flow `quantum` tokens, and each request sends `turn` tokens before the next.
    pub(super) fn new(quantum: usize, turn: usize) -> Self {
        Self { flows: HashMap::new(), turns: VecDeque::new(), tokens: 0, quantum: quantum.max(1), turn, last: None }
    }

    /// Tokens that wait.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens that wait in one flow.
    pub(super) fn held(&self, flow: &K) -> usize {
        self.flows.get(flow).map_or(0, |flow| flow.tokens)
    }

    /// An estimate of the waiting tokens that run before the last of `tokens` further tokens of `flow`: all that wait in the flow, and of
    /// every other flow what it sends in as many visits as the flow then needs.
    pub(super) fn ahead(&self, flow: &K, tokens: usize) -> usize {
        let held = self.held(flow);
        let crowded = self.flows.get(flow).is_some_and(|flow| flow.crowded);
        let visits = held.saturating_add(tokens).div_ceil(granted(crowded, self.quantum));
        let sent = |other: &Flow<R, P>| other.tokens.min(visits.saturating_mul(granted(other.crowded, self.quantum)));
        let others = self.flows.iter().filter(|(name, _)| *name != flow);
        held + others.map(|(_, other)| sent(other)).sum::<usize>()
    }

    /// The waiting requests, in no particular order.
    pub(super) fn requests(&self) -> impl Iterator<Item = &R> {
        self.flows.values().flat_map(|flow| flow.requests.iter().map(|waiting| &waiting.request))
    }

    /// Adds a request to the end of a flow. A request without parts is not kept.
    pub(super) fn push(&mut self, flow: K, request: R, parts: impl IntoIterator<Item = Part<P>>) {
        let waiting = Waiting { request, parts: parts.into_iter().collect(), sent: 0 };
        if waiting.parts.is_empty() {
            return;
        }
        let tokens = waiting.tokens();
        self.tokens += tokens;
        let flow = self.flows.entry(flow).or_insert_with_key(|name| {
            self.turns.push_back(name.clone());
            Flow::new()
        });
        flow.tokens += tokens;
        flow.requests.push_back(waiting);
    }

    /// Takes the next batch. It is empty only if nothing waits.
    pub(super) fn take(&mut self, Budget { most, target }: Budget) -> Vec<P> {
        let (mut batch, mut tokens) = (Vec::new(), 0);
        'rounds: while (batch.is_empty() || tokens < target.min(most)) && !self.turns.is_empty() {
            let round = self.next_round();
            for _ in 0..self.turns.len() {
                let Some(name) = self.turns.pop_front() else { break };
                let Some(flow) = self.flows.get_mut(&name) else { continue };
                if !flow.is_visited(round) {
                    self.turns.push_back(name);
                    continue;
                }
                let before = tokens;
                flow.begin(self.quantum);
                match flow.visit(self.turn, most, &mut batch, &mut tokens) {
                    Visit::Empty => drop(self.flows.remove(&name)),
                    Visit::Spent => {
                        if tokens > before {
                            flow.crowded = flow.tokens > self.quantum.saturating_mul(CROWD);
                        }
                        self.turns.push_back(name);
                    }
                    Visit::Full => {
                        self.turns.push_front(name);
                        self.last = None;
                        break 'rounds;
                    }
                }
            }
            if batch.is_empty() {
                self.skip_idle_rounds();
            }
        }
        self.tokens -= tokens;
        batch
    }

    /// Decides which flows the next round visits. After an interrupted round, these are all, from the flow that did not fit.
    fn next_round(&mut self) -> Round {
        let crowded = self.flows.values().filter(|flow| flow.crowded).count();
        let round = match self.last {
            Some(Round::Early) => Round::Late,
            Some(_) if crowded > 0 && crowded < self.flows.len() => Round::Early,
            _ => Round::All,
        };
        self.last = Some(round);
        round
    }

    /// Grants at once what flows would be granted in the coming rounds in which none of them could send.
    fn skip_idle_rounds(&mut self) {
        let quantum = self.quantum;
        let granted = |flow: &Flow<R, P>| granted(flow.crowded, quantum);
        let rounds = |flow: &Flow<R, P>| Some(flow.next_cost()?.saturating_sub(flow.deficit).div_ceil(granted(flow)));
        let idle = self.flows.values().filter_map(rounds).min().unwrap_or(0).saturating_sub(1);
        for flow in self.flows.values_mut() {
            flow.deficit = flow.deficit.saturating_add(idle.saturating_mul(granted(flow)));
        }
    }

    /// Takes the requests out for which `keep` is false. To drop them may take time.
    #[must_use]
    pub(super) fn take_unless(&mut self, mut keep: impl FnMut(&R) -> bool) -> Vec<Waiting<R, P>> {
        let mut taken = Vec::new();
        for flow in self.flows.values_mut() {
            for waiting in std::mem::take(&mut flow.requests) {
                if keep(&waiting.request) {
                    flow.requests.push_back(waiting);
                } else {
                    taken.push(waiting);
                }
            }
            flow.tokens = flow.requests.iter().map(Waiting::tokens).sum();
        }
        self.flows.retain(|_, flow| !flow.requests.is_empty());
        let flows = &self.flows;
        self.turns.retain(|name| flows.contains_key(name));
        self.tokens = flows.values().map(|flow| flow.tokens).sum();
        taken
    }
}

#[cfg(test)]
mod tests;
