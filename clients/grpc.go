package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The service has three methods. Wait answers after a duration; Tick answers
// with a stream of small messages, so many of them, with a pause before each;
// Push takes a stream of messages, and answers once it has ended.

var service = grpc.ServiceDesc{
	ServiceName: "clients.Service",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Wait", Handler: wait}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Tick", Handler: tick, ServerStreams: true},
		{StreamName: "Push", Handler: push, ClientStreams: true},
	},
}

func wait(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var d durationpb.Duration
	if err := decode(&d); err != nil {
		return nil, err
	}
	time.Sleep(d.AsDuration())
	return &d, nil
}

func tick(_ any, s grpc.ServerStream) error {
	var pause durationpb.Duration
	var n wrapperspb.Int64Value
	if err := s.RecvMsg(&pause); err != nil {
		return err
	}
	n.Value = int64(pause.Nanos) // see ticks
	for range n.Value {
		time.Sleep(time.Duration(pause.Seconds) * time.Millisecond)
		if err := s.SendMsg(&n); err != nil {
			return err
		}
	}
	return nil
}

func push(_ any, s grpc.ServerStream) error {
	var got wrapperspb.BytesValue
	for {
		switch err := s.RecvMsg(&got); {
		case errors.Is(err, io.EOF):
			return s.SendMsg(&got)
		case err != nil:
			return err
		}
	}
}

// ticks asks for n messages, one a pause. It takes the two fields of a Duration
// for two numbers: milliseconds and n.
func ticks(n int, pause time.Duration) *durationpb.Duration {
	return &durationpb.Duration{Seconds: pause.Milliseconds(), Nanos: int32(n)}
}

// serveGRPC serves; it pings clients that are quiet for so long, if not zero.
func serveGRPC(ping time.Duration) error {
	var options []grpc.ServerOption
	if ping > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{Time: ping}))
	}
	if os.Getenv("TLS") != "" {
		secure, err := credentials.NewServerTLSFromFile("cert.pem", "key.pem")
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(secure))
	}
	options = append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: time.Second, PermitWithoutStream: true,
	}))
	s := grpc.NewServer(options...)
	s.RegisterService(&service, nil)
	l, err := net.Listen("tcp", listenAddr())
	if err != nil {
		return err
	}
	return s.Serve(l)
}

// channel makes a client's channel, which is one connection. It pings after so
// long, if not zero.
func (w *world) channel(from string, ping time.Duration) (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if w.scenario.tls {
		secure = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			c, err := w.dial(from)
			if err == nil {
				c.SetDeadline(time.Time{})
			}
			return c, err
		}),
	}
	if ping > 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: ping, PermitWithoutStream: true}))
	}
	return grpc.NewClient("passthrough:///server", options...)
}

// call makes a unary call that takes so long.
func (w *world) call(c *grpc.ClientConn, d time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), w.patience())
	defer cancel()
	err := c.Invoke(ctx, "/clients.Service/Wait", durationpb.New(d), new(durationpb.Duration))
	w.record("gRPC call of "+d.String(), began, grpcLoss(err))
}

// watch reads a server stream of n messages to its end.
func (w *world) watch(c *grpc.ClientConn, n int, pause time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n)*pause+patience)
	defer cancel()
	s, err := c.NewStream(ctx, &service.Streams[0], "/clients.Service/Tick")
	if err == nil {
		err = s.SendMsg(ticks(n, pause))
	}
	if err == nil {
		err = s.CloseSend()
	}
	for err == nil {
		err = s.RecvMsg(new(wrapperspb.Int64Value))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	w.record("gRPC stream", began, grpcLoss(err))
}

// push sends a stream of n messages with a pause before each.
func (w *world) push(c *grpc.ClientConn, n, size int, pause time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n)*pause+patience)
	defer cancel()
	s, err := c.NewStream(ctx, &service.Streams[1], "/clients.Service/Push")
	for i := 0; i < n && err == nil; i++ {
		time.Sleep(pause)
		err = s.SendMsg(wrapperspb.Bytes(make([]byte, size)))
	}
	if err == nil {
		err = s.CloseSend()
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = s.RecvMsg(new(wrapperspb.BytesValue))
	}
	w.record("gRPC upload", began, grpcLoss(err))
}

func grpcLoss(err error) error {
	if status.Code(err) == codes.Unavailable {
		return errCut{err}
	}
	return err
}

// channels makes so many, and gives each to f in a goroutine.
func (w *world) channels(n int, ping time.Duration, f func(c *grpc.ClientConn)) {
	for i := range n {
		w.clients.Go(func() {
			c, err := w.channel(clientIP(i), ping)
			if err != nil {
				w.record("a channel", time.Now(), err)
				return
			}
			defer c.Close()
			f(c)
		})
	}
}

// patience is what is left of it for a request made now.
func (w *world) patience() time.Duration {
	if closed(w.over) {
		return patienceAfter
	}
	return patience
}
