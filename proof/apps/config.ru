# What Puma serves.
class Pieces
  def initialize(ms) = @ms = ms

  def each
    (@ms / 200).times do
      yield "piece\n"
      sleep 0.2
    end
    yield "done\n"
  end
end

run(lambda do |env|
  ms = env['QUERY_STRING'][/ms=(\d+)/, 1].to_i
  return [200, { 'content-type' => 'text/plain' }, Pieces.new(ms)] if env['PATH_INFO'] == '/stream'

  sleep ms / 1000.0
  [200, { 'content-type' => 'text/plain' }, ["done\n"]]
end)
