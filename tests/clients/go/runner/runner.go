package main

import (
	"crypto/rand"
	"sync"
	"time"

	runnerv1 "agentmesh/api/runner/v1"

	"google.golang.org/protobuf/proto"
)

const slots, heartbeatEvery = 4, 5 * time.Second

// runner serves any number of routers. Its lock guards its fields and every attempt.
type runner struct {
	runnerv1.UnimplementedRunnerServiceServer
	sync.Cond
	name, incarnation string
	attempts          map[string]*attempt
	leaseEnd          time.Time
}

func (r *runner) change(do func()) {
	r.L.Lock()
	defer r.L.Unlock()
	do()
	r.Broadcast()
}

// ExecuteTasks sends at once when idle; what is said while a message is on its way shares the next one.
func (r *runner) ExecuteTasks(router routerStream) error {
	beat, beatTime, open := int64(0), time.Now(), true // the hello counts as heartbeat 0
	go func() {
		for request, err := router.Recv(); err == nil; request, err = router.Recv() {
			r.change(func() {
				if request.Hello != nil && beat == 0 {
					r.leaseEnd = beatTime.Add(request.Hello.LeaseTtl.AsDuration())
				} else if lease := request.Lease; lease != nil && lease.Ttl == nil {
					r.loseLease() // which ends all streams, so that routers connect anew
				} else if lease != nil && lease.Heartbeat == beat {
					r.leaseEnd = beatTime.Add(lease.Ttl.AsDuration())
				}
				r.receive(router, request)
			})
		}
		r.change(func() { open = false })
	}()
	r.L.Lock()
	defer r.L.Unlock()
	hello := &runnerv1.RunnerHello{Name: r.name, Incarnation: r.incarnation, Slots: slots, Agents: agents}
	for message := (&runnerv1.ExecuteTasksResponse{Hello: hello}); open && hello.Incarnation == r.incarnation; message.Reset() {
		for id, a := range r.attempts {
			if a.router.Context().Err() != nil { // its stream broke: whoever is there may adopt it
				resume := &runnerv1.Resume{TaskId: id, Attempt: a.task.Attempt, AckedOffset: a.acked, Tenant: a.task.Tenant}
				hello.Running, message.Hello, a.router, a.sent = append(hello.Running, resume), hello, router, offered
			} else if end := a.acked + int64(len(a.held)); a.router == router && a.sent < end {
				message.Events, a.sent = append(message.Events, a.held[a.sent-a.acked:]...), end
			}
		}
		if time.Since(beatTime) >= heartbeatEvery {
			beat, beatTime = beat+1, time.Now()
			message.Heartbeat = &runnerv1.Heartbeat{Number: beat}
		}
		if proto.Size(message) == 0 {
			r.Wait()
			continue
		}
		r.L.Unlock()
		err := router.Send(message)
		r.L.Lock()
		if hello.Running = nil; err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) receive(router routerStream, request *runnerv1.ExecuteTasksRequest) {
	for _, task := range request.Assignments {
		if old := r.attempts[task.TaskId]; old == nil || old.task.Attempt < task.Attempt {
			r.drop(old)
			a := &attempt{task: task, router: router}
			r.attempts[task.TaskId] = a
			go echo(task.Spec, func(batch *runnerv1.EventBatch) (goOn bool) {
				r.change(func() { goOn = a.say(batch) })
				return goOn
			})
		}
	}
	for _, m := range request.Adopted {
		if a := r.attempts[m.TaskId]; a != nil && a.task.Attempt == m.Attempt {
			r.acknowledge(a, m.AckedOffset)
			a.sent = a.acked
		}
	}
	for _, m := range request.Acks {
		if a := r.attempts[m.TaskId]; a != nil && a.task.Attempt == m.Attempt {
			r.acknowledge(a, m.Offset)
		}
	}
	for _, m := range request.Stops {
		if a := r.attempts[m.TaskId]; a != nil && a.task.Attempt == m.Attempt {
			if m.Reason == runnerv1.StopAttempt_REASON_STALE {
				r.drop(a)
			} else {
				a.say(stopped(m.Reason))
			}
		}
	}
}

func (r *runner) acknowledge(a *attempt, offset int64) {
	if durable := min(offset-a.acked, int64(len(a.held))); durable > 0 {
		a.held, a.acked = a.held[durable:], a.acked+durable
	}
	if a.over && len(a.held) == 0 {
		r.drop(a)
	}
}

// drop forgets an attempt; its agent is told when it next says something.
func (r *runner) drop(a *attempt) {
	if a != nil {
		a.over = true
		delete(r.attempts, a.task.TaskId)
	}
}

// loseLease stops everything: what it still says belongs to nobody.
func (r *runner) loseLease() {
	for _, a := range r.attempts {
		r.drop(a)
	}
	r.incarnation = r.name + "/" + rand.Text()
}

// keepTime wakes the streams for their heartbeats, and notices that the lease was not renewed.
func (r *runner) keepTime() {
	for range time.Tick(100 * time.Millisecond) {
		r.change(func() {
			if len(r.attempts) > 0 && time.Now().After(r.leaseEnd) {
				r.loseLease()
			}
		})
	}
}
